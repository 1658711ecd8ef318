"""Ask a checkpoint for adapters under the names that another class of model, or another release of
megatron-core, has saved them with.

A HybridModel has attention and MLP in layers of their own, so its tensors have other names than
those of the GPTModel with the same layers (`clora.layer_pattern`). GPTModel also stacks the tensors
of equal layers into one, and HybridModel never does. The values are the same, so only the
description of where a tensor lies in the checkpoint is changed, and each entry is read as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clora.errors import CheckpointError
from clora.folders.adapter_scales import saved_pattern
from clora.folders.checkpoint_metadata import read_tensors
from clora.layer_pattern import MLPS, PREDICTION_LAYERS, LayerPattern, gpt_path, hybrid_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

_LAYERS = re.compile(r"(?:language_model\.)?decoder\.layers\.(?:(?P<number>\d+)\.)?(?P<child>\w+)\.")
_STACK = re.compile(r"(?P<above>(?:language_model\.)?decoder\.layers)\.(?P<below>[a-z]\w*\..+)")
_FACTOR = re.compile(r"(?P<stem>.+\.linear_(?:in|out)\.weight)(?P<tail>(?:\..+)?)")
_NUMBERED = re.compile(r"(?P<above>(?:language_model\.)?decoder\.layers)\.(?P<number>\d+)\.(?P<below>.+)")
_MIXER = "mixer"
"""Child of a Mamba layer, which no GPTModel has."""


@dataclass(frozen=True, slots=True)
class SavedAdapters:
    """A checkpoint of adapters, as far as the names in it go."""

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    """Key -> full shape of every tensor in it, those of a base as well."""
    pattern: LayerPattern | None
    """The layers of the HybridModel that it was saved from; None where it does not say."""


def saved_in(folder: Path) -> SavedAdapters:
    """Return the names in the checkpoint at `folder`.

    Raises:
        CheckpointError: there is no complete checkpoint, or it is damaged.
    """
    letters = saved_pattern(folder)
    return SavedAdapters(folder, read_tensors(folder), None if letters is None else LayerPattern(letters))


def as_saved(state: Mapping[str, Any], ours: LayerPattern | None, saved: SavedAdapters) -> dict[str, Any]:
    """Return the entries of `state` with the keys under which `saved` has them.

    Args:
        state: sharded tensors of the adapters of a model on this rank.
        ours: the pattern of its layers if it is a HybridModel; None for a GPTModel.
        saved: the checkpoint that will be read.

    Raises:
        CheckpointError: the layers of the model are not those of the saved one, or the checkpoint
            does not tell which class of model its layer numbers are of.
    """
    rename = _renaming(ours, saved)
    return {name: _renamed(tensor, rename) for name, tensor in state.items()}


def _renaming(ours: LayerPattern | None, saved: SavedAdapters) -> Callable[[Any], Any]:
    if ours is None:
        if not _is_of_hybrid(saved):
            return lambda piece: _with_key(piece, _prediction_keys(piece.key), saved)
        if saved.pattern is not None and not saved.pattern.is_of_pairs:
            raise CheckpointError(
                f"{saved.folder} was saved from a HybridModel with the layers {saved.pattern.letters}, which are not "
                "attention and MLP in turn: no GPTModel has such layers."
            )
        return lambda piece: _for_gpt(piece, saved)
    if saved.pattern is not None:
        _refuse_other_pattern(ours, saved)
        return lambda piece: piece
    if not _is_of_gpt(ours, saved):
        return lambda piece: piece
    if not ours.is_of_pairs:
        raise CheckpointError(
            f"{saved.folder} was saved from a GPTModel, and the layers of this model ({ours.letters}) are not "
            "attention and MLP in turn: no layer of a GPTModel can be found in them."
        )
    _refuse_other_depth(ours, saved)
    return lambda piece: _for_hybrid(piece, ours, saved)


def _refuse_other_pattern(ours: LayerPattern, saved: SavedAdapters) -> None:
    if saved.pattern is not None and saved.pattern != ours:
        raise CheckpointError(
            f"{saved.folder} was saved from a HybridModel with the layers {saved.pattern.letters}, and this model has "
            f"{ours.letters}. Build it with the hybrid_layer_pattern that it was saved with."
        )


def _refuse_other_depth(ours: LayerPattern, saved: SavedAdapters) -> None:
    """Refuse adapters of a GPTModel of another depth than the pairs of the pattern."""
    for key, shape in saved.shapes.items():
        stack = _STACK.fullmatch(key)
        # With a number in the targets each layer has a tensor of its own, and no axis is of layers.
        if stack and ".adapter." in key and _behind(key) is None and shape[0] != ours.pairs:
            raise CheckpointError(
                f"{saved.folder} has adapters for the {shape[0]} layers of a GPTModel, and the layers of this model "
                f"({ours.letters}) are those of a GPTModel with {ours.pairs}. Build it with a hybrid_layer_pattern of "
                f"{shape[0]} times attention and MLP."
            )


def _is_of_hybrid(saved: SavedAdapters) -> bool:
    """Return whether a checkpoint that a GPTModel is to read is of a HybridModel."""
    if saved.pattern is not None:
        return True
    return "decoder.final_norm.weight" in saved.shapes and _certainly_of_gpt(saved.shapes) is False


def _certainly_of_gpt(keys: Collection[str]) -> bool:
    """Return whether any key is one that only a GPTModel has."""
    halves: dict[str, set[bool]] = {}
    for key in keys:
        found = _LAYERS.match(key)
        if ".final_layernorm." in key:
            return True
        if not found:
            continue
        # A HybridModel numbers every layer, and none of them has both an attention and an MLP.
        own = halves.setdefault(found["number"] or "", set())
        own.add(found["child"] == "mlp")
        if found["number"] is None or len(own) > 1:
            return True
    return False


def _is_of_gpt(ours: LayerPattern, saved: SavedAdapters) -> bool:
    """Return whether a checkpoint that a HybridModel is to read is of a GPTModel.

    Raises:
        CheckpointError: its names could be those of either, with other layers.
    """
    if _certainly_of_gpt(saved.shapes):
        return True
    found = [match for match in map(_LAYERS.match, saved.shapes) if match]
    is_hybrid = "decoder.final_norm.weight" in saved.shapes or any(match["child"] == _MIXER for match in found)
    if not ours.is_of_pairs or is_hybrid or not found:
        return False
    numbers = {(int(match["number"]), match["child"] == "mlp") for match in found}
    if any((ours.letters[number : number + 1] in MLPS) is not is_mlp for number, is_mlp in numbers if number):
        return True
    largest = max(number for number, _ in numbers)
    if 0 < largest < ours.pairs:
        raise CheckpointError(
            f"{saved.folder} does not say whether its layer numbers are those of a GPTModel or of a HybridModel, and "
            "both fit this model, with other layers. Save it again with this release of clora, from the model that "
            "it was saved from."
        )
    return False


def _for_hybrid(piece: Any, ours: LayerPattern, saved: SavedAdapters) -> Any:
    """Return `piece` of a HybridModel with its place in the checkpoint of a GPTModel."""
    path = gpt_path(piece.key)
    if path is None:
        return piece
    numbered = _NUMBERED.fullmatch(path)
    if numbered is None:
        return _with_key(piece, _prediction_keys(path), saved)
    layer, stacked = int(numbered["number"]), f"{numbered['above']}.{numbered['below']}"
    if path in saved.shapes:
        return replace(piece, key=path)
    factor = _FACTOR.fullmatch(stacked)
    by_number = f"{factor['stem']}.{layer}{factor['tail']}" if factor else stacked
    if by_number in saved.shapes:
        return replace(piece, key=by_number)
    return replace(
        piece,
        key=stacked,
        global_shape=(ours.pairs, *piece.global_shape),
        global_offset=(layer, *piece.global_offset),
        axis_fragmentations=(ours.pairs, *piece.axis_fragmentations),
        prepend_axis_num=piece.prepend_axis_num + 1,
    )


def _for_gpt(piece: Any, saved: SavedAdapters) -> Any:
    """Return `piece` of a GPTModel with its place in the checkpoint of a HybridModel."""
    if _NUMBERED.fullmatch(piece.key):
        return replace(piece, key=hybrid_path(piece.key))
    stack = _STACK.fullmatch(piece.key)
    if stack is None:
        return _with_key(piece, (hybrid_path(piece.key),), saved)
    number = _behind(piece.key)
    if number is not None:
        factor = _FACTOR.fullmatch(stack["below"])
        tail = factor["tail"].removeprefix(f".{number}") if factor else ""
        below = f"{factor['stem']}{tail}" if factor else stack["below"]
        return replace(piece, key=hybrid_path(f"{stack['above']}.{number}.{below}"))
    return replace(
        piece,
        key=hybrid_path(f"{stack['above']}.{piece.global_offset[0]}.{stack['below']}"),
        global_shape=piece.global_shape[1:],
        global_offset=piece.global_offset[1:],
        axis_fragmentations=piece.axis_fragmentations[1:],
        prepend_axis_num=piece.prepend_axis_num - 1,
    )


def _behind(key: str) -> int | None:
    """Return the layer's number behind the name of a factor, where targets named layers by number;
    None where the layers are stacked.
    """
    factor = _FACTOR.fullmatch(key)
    first = factor["tail"].lstrip(".").partition(".")[0] if factor else ""
    return int(first) if first.isdigit() else None


def _prediction_keys(key: str) -> Iterator[str]:
    """Yield `key` with each name that releases give to the layer inside a prediction layer."""
    yield key
    for old in PREDICTION_LAYERS:
        for new in PREDICTION_LAYERS:
            if f".{old}." in key and "mtp.layers." in key:
                yield key.replace(f".{old}.", f".{new}.")


def _with_key(piece: Any, keys: Iterator[str] | tuple[str, ...], saved: SavedAdapters) -> Any:
    """Return `piece` with the first of `keys` that the checkpoint has; as it is if it has none."""
    return replace(piece, key=next((key for key in keys if key in saved.shapes), piece.key))


def _renamed(tensor: Any, rename: Callable[[Any], Any]) -> Any:
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    if not isinstance(tensor, ShardedTensorFactory):
        return rename(tensor)
    build = tensor.build_fn
    return replace(tensor, build_fn=lambda *arguments: [rename(piece) for piece in build(*arguments)])
