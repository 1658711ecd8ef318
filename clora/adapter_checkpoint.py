"""Save and load the adapters alone, as a megatron-core distributed checkpoint.

`save_adapters` writes a folder, and `load_adapters` fills a model from it that has adapters of the
same shapes and scales, on any layout. The folder appears under its name only when it is complete. A
folder that is damaged, or that holds other adapters, changes nothing in the model.

The tensors lie as megatron-core writes them, and `adapters.json` beside them has the scale of each
adapter and the fingerprint of all (`clora.folders.adapter_scales`). When a trainer saves the whole
model, the tensors of the adapters are in its checkpoint and `load_adapters` can read them, but
there is no such file.

Megatron-Bridge has the same keys and lays some tensors out in another way. Its files are recognised
(`clora.bridge_checkpoint`), and written on request.
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from clora.adapters import Adapter
from clora.all_ranks import gather_objects, own_rank, together
from clora.bridge_checkpoint import forms, shards
from clora.errors import CheckpointError, one_line
from clora.fingerprints.live import live_pairs, naming_of
from clora.folders.adapter_scales import (
    FILE,
    AdapterScale,
    ScaledAdapter,
    read_scales,
    refuse_other_scales,
    write_scales,
)
from clora.folders.checkpoint_metadata import COMMON, first_failure, read_pieces, why_not_read
from clora.folders.fingerprint import FORMAT, differing, holds, record_of
from clora.folders.new_folder import make_unfinished
from clora.folders.socket_folder import keep_socket_paths_short
from clora.linears import chunks_of, layer_pattern, sharded_state, ties_an_output_layer_in_vain
from clora.sharding.checkpoint import tensors_only
from clora.sharding.saved_names import as_saved, saved_in
from clora.wrappers import refuse_merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from clora.adapters import Factor
    from clora.bridge_checkpoint.forms import SavedForm, Wanted
    from clora.linears import Model

T = TypeVar("T")

_log = logging.getLogger("clora")

_ADAPTER = ".adapter."
"""Part of the name of every parameter and key of an adapter, and of no other."""
_A = ".linear_in.weight"
"""End of the names of the factor A, of which each adapter has one."""


def adapter_sharded_state(model: Model, *, per_layer: bool = False) -> dict[str, Any]:
    """Return megatron-core's sharded tensors of the adapters only.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.
        per_layer: True for a key for each layer, as `non_homogeneous_layers` in megatron-core's
            metadata asks for. By default layers that are alike have one key together.
    """
    return _sharded(model, adapters=True, per_layer=per_layer)


def base_sharded_state(model: Model, *, per_layer: bool = False) -> dict[str, Any]:
    """Return megatron-core's sharded tensors of the base, which are those of the unadapted model.

    Pass the result to `megatron.core.dist_checkpointing.load` to load a base checkpoint into a
    model that is adapted already.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks. The names of several
            chunks get a prefix: "0:", "1:", ...
        per_layer: True for a key for each layer, as in `adapter_sharded_state`.

    Raises:
        CheckpointError: megatron-core cannot save such a base.
    """
    return _sharded(model, adapters=False, per_layer=per_layer)


def save_adapters(model: Model, folder: str | Path, *, bridge: str | None = None) -> None:
    """Write the adapters of `model` to the new `folder`. All ranks must call this.

    By default any layout can read the folder with `load_adapters`. Megatron-Bridge reads it right
    where it has one tensor-parallel rank; with more it would mix up the rows of gate and up.

    megatron-core starts a process that imports the script again, so a script has to call this below
    `if __name__ == "__main__":`. A job that is killed meanwhile leaves a folder
    `FOLDER.xxxxxxxx.unfinished`, which nobody reads or needs.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.
        folder: on storage that all ranks share. It must not exist; missing parents are made.
        bridge: the release of Megatron-Bridge that shall read the folder, such as "0.6.0" or
            "main". It is then written as that release would write it on this layout, and that
            release reads it right on the same tensor-parallel size only. `load_adapters` reads
            both, on any layout.

    Raises:
        CheckpointError: the model has no adapters, `folder` exists already, or it cannot be
            written. Or that release cannot hold these adapters. All ranks raise it, and nothing is
            left behind.
    """
    from megatron.core import dist_checkpointing

    _refuse_to_run_in_the_writer()
    keep_socket_paths_short()
    folder = Path(folder)
    state = own = _on_all_ranks(lambda: adapter_sharded_state(model))
    if bridge is not None:
        state = _on_all_ranks(lambda: _state_for_bridge(model, own, bridge))
    adapters = [adapter for part in gather_objects(_written_adapters(model, own)) for adapter in part]
    if not adapters:
        raise CheckpointError("There are no adapters to save: apply CanonicalLoRA to the model first.")
    if own_rank() == 0:
        _tell_who_reads_it(folder, [adapter.key for adapter in adapters], bridge)
    pattern = layer_pattern(chunks_of(model)[0])
    pairs = live_pairs(model)
    recorded = record_of(pairs.digests, pairs.dtypes, naming_of(model)) if pairs.digests else None
    # After each step all ranks agree whether it worked: one that went on alone would wait forever.
    unfinished = _on_all_ranks(lambda: make_unfinished(folder, CheckpointError) if own_rank() == 0 else None)

    def complete() -> None:
        if unfinished is not None:
            write_scales(unfinished.path, adapters, None if pattern is None else pattern.letters, recorded)
            unfinished.complete()

    try:
        path = gather_objects(str(unfinished.path) if unfinished else "")[0]
        _on_all_ranks(
            lambda: dist_checkpointing.save(state, path), f"{folder} cannot be written", reason=_why_not_written
        )
        _on_all_ranks(complete, f"{folder} cannot be written")
    except BaseException:
        if unfinished is not None:
            unfinished.discard()
        raise


def load_adapters(model: Model, folder: str | Path) -> None:
    """Fill the adapters of `model` from `folder`. All ranks must call this.

    A checkpoint that was saved before the scale of the adapters was written down, by
    Megatron-Bridge, or by a trainer as part of the whole model, is loaded with a warning: nobody
    can tell whether alpha is the same.

    Args:
        model: one model, adapted as the saved one was, or the list of its virtual pipeline chunks.
            Its layout may be another, and so may its dropout. A HybridModel with attention and MLP
            in turn may be filled from the GPTModel that it was made from, and the other way round.
        folder: what `save_adapters` wrote, or a checkpoint of Megatron-Bridge with its canonical
            LoRA. Rows that it saved in another order are put in order.

    Raises:
        CheckpointError: `folder` is not a checkpoint, is damaged, or holds other adapters; the
            message lists what is missing, unexpected, of another shape or of another scale. Or
            adapters of the model are merged. All ranks raise it, and no model was changed.
    """
    folder = Path(folder)
    state = _on_all_ranks(lambda: adapter_sharded_state(model))
    _on_all_ranks(lambda: refuse_merged(model, CheckpointError))
    saved = _on_all_ranks(lambda: saved_in(folder), f"{folder} cannot be read", reason=why_not_read)
    state = _on_all_ranks(lambda: as_saved(state, layer_pattern(chunks_of(model)[0]), saved))
    factors = {name: _factor_of(model, name) for name in state}
    found = saved_forms(model, state, folder)
    knows_scales = _on_all_ranks(lambda: refuse_other_scales(folder, scaled_adapters(model, state)))
    if own_rank() == 0:
        _tell_forms(folder, found)
        if not knows_scales:
            _warn_of_unknown_scales(model, folder)
    readings = _on_all_ranks(
        lambda: {
            name: shards.reading(own, factors[name], form)
            for name, own in state.items()
            if not (form := found[next(shards.wanted(own, factors[name]))[0]]).is_ours
        }
    )
    weights = _weights_in(folder, state, readings)
    _refuse_other_values(model, {factors[name]: weight for name, weight in weights.items()}, folder)
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.data.copy_(weights[name])


def _weights_in(
    folder: Path, state: Mapping[str, Any], readings: Mapping[str, shards.Reading]
) -> Mapping[str, torch.Tensor]:
    """Read the tensors of `state` into memory of their own; those of `readings` as these say."""
    from megatron.core import dist_checkpointing

    # Load into fresh memory: a damaged file is found only while reading, when part of it is loaded.
    loaded: dict[str, Any] = {
        name: readings[name].shards if name in readings else _with_own_memory(own) for name, own in state.items()
    }
    # megatron-core checks that all ranks together read each element once. Rows that every rank puts
    # in order, and an expert that every rank compares with its own, are read more often.
    # Without this file what is no tensor is in the data, where torch would open any pickle.
    with nullcontext() if (folder / COMMON).exists() else tensors_only():
        result = _on_all_ranks(
            lambda: dist_checkpointing.load(loaded, str(folder), validate_access_integrity=not readings),
            f"{folder} cannot be read",
            reason=why_not_read,
        )
    return _on_all_ranks(
        lambda: {
            name: readings[name].weight(value) if name in readings else value
            for name, value in result.items()
            if name in state
        }
    )


def _refuse_other_values(model: Model, weights: Mapping[Factor, torch.Tensor], folder: Path) -> None:
    """Raise on all ranks if `weights`, as they were read, are not those that were saved."""
    saved = _on_all_ranks(lambda: read_scales(folder))
    if saved is None:
        return
    recorded = saved.fingerprint
    if recorded is None or recorded.format != FORMAT:
        _say("%s has no fingerprint that can be compared: its values are taken as they are.", folder)
        return
    pairs = live_pairs(model, weights)
    same = pairs.dtypes == recorded.dtypes or holds(pairs.dtypes, recorded.dtypes)
    if pairs.digests is None or not same:
        _say(
            "The fingerprint of %s is not compared: it was saved in %s, and is rounded to the dtype of the model, %s.",
            folder,
            ", ".join(recorded.dtypes),
            ", ".join(pairs.dtypes),
        )
        return
    if names := differing(recorded, pairs.digests):
        raise CheckpointError(
            f"{folder} is damaged: {_first_few(names)} {'is' if len(names) == 1 else 'are'} not what was saved "
            f"({len(names)} of {len(recorded.pairs)} linears have another fingerprint than in {FILE}). Take another "
            "copy of the checkpoint."
        )


def _say(message: str, *arguments: object) -> None:
    if own_rank() == 0:
        _log.info(message, *arguments)


def _sharded(model: Model, *, adapters: bool, per_layer: bool) -> dict[str, Any]:
    chunks = chunks_of(model)
    state: dict[str, Any] = {}
    for number, chunk in enumerate(chunks):
        if not adapters and ties_an_output_layer_in_vain(chunk):
            raise CheckpointError(
                "megatron-core cannot put this base into a distributed checkpoint: its embeddings are tied, and "
                "multi-token prediction is not on the first pipeline stage. Untie them, or use pp = 1. (Adapters alone "
                "can be saved and loaded.)"
            )
        # Each chunk numbers its layers from 0, so two chunks may have equal names. Keys have the
        # numbers in the whole model and are never equal.
        prefix = f"{number}:" if len(chunks) > 1 else ""
        state |= {
            f"{prefix}{name}": tensor
            for name, tensor in sharded_state(chunk, per_layer=per_layer).items()
            if (_ADAPTER in name) is adapters
        }
    return state


def _state_for_bridge(model: Model, state: Mapping[str, Any], release: str) -> dict[str, Any]:
    facts = forms.release_named(release)
    found: dict[str, Any] = {}
    for name, own in state.items():
        factor = _factor_of(model, name)
        found[name] = shards.written(own, factor, facts)
        stem = name.removesuffix("weight")
        found |= {f"{stem}{end}": value for end, value in shards.extra_state(own, factor).items()}
    return found


def _tell_who_reads_it(folder: Path, adapters: Iterable[str], bridge: str | None) -> None:
    if bridge is not None:
        _log.info(
            "%s is written as Megatron-Bridge %s writes it: that reads it right with the tensor-parallel size of "
            "this run only.",
            folder,
            bridge,
        )
    elif any(key.endswith((".adapter_up", ".adapter_gate")) for key in adapters):
        _log.info(
            "%s has the rows of gate and up in order. Megatron-Bridge would mix them up with more than one "
            "tensor-parallel rank: for it, write save_adapters(model, folder, bridge='0.6.0').",
            folder,
        )


def _tell_forms(folder: Path, found: Mapping[str, SavedForm]) -> None:
    halved = {form.halved_by for form in found.values() if form.halved_by and not form.is_ours}
    if halved:
        _log.info(
            "Megatron-Bridge saved %s with tp = %d. The rows of gate and up, which it had mixed up, are put in order.",
            folder,
            max(halved),
        )
    if any(form.has_expert_axis for form in found.values()):
        _log.info("%s has the experts' shared adapters once for each expert. One is read, all are compared.", folder)


def saved_forms(model: Model, state: Mapping[str, Any], folder: Path) -> dict[str, SavedForm]:
    """Return in which form `folder` holds each tensor of the adapters. All ranks must call this.

    Args:
        model: the adapted model.
        state: its `adapter_sharded_state`.
        folder: a distributed checkpoint with adapters.

    Raises:
        CheckpointError: as `load_adapters`, for what the index of the checkpoint tells.
    """
    mine = wanted_tensors(model, state)
    wanted = {key: want for part in gather_objects(mine) for key, want in part.items()}
    return _on_all_ranks(lambda: _forms(wanted, folder), f"{folder} cannot be read", reason=why_not_read)


def _forms(wanted: Mapping[str, Wanted], folder: Path) -> dict[str, SavedForm]:
    """Return in which form `folder` holds each of the tensors that the model wants on all ranks
    together. Raise unless it holds just these.
    """
    saved = read_pieces(folder, ".linear_")
    found = forms.forms_of(wanted, saved)
    known = {form.key for form in found.values()}
    reshaped = sorted(wanted.keys() & saved.keys() - found.keys())
    missing = sorted(wanted.keys() - found.keys() - saved.keys())
    unexpected = sorted(key for key in saved.keys() - known - wanted.keys() if _ADAPTER in key)
    if missing or unexpected:
        both = (("lacks", missing, "the model has"), ("has", unexpected, "the model lacks"))
        differences = "; ".join(
            f"{verb} {len(keys)} that {which} ({_first_few(keys)})" for verb, keys, which in both if keys
        )
        raise CheckpointError(
            f"{folder} is of other adapters: it {differences}. "
            + (
                forms.explanation(missing, unexpected)
                or "Adapt the model with the target_modules that it was saved with."
            )
        )
    if reshaped:
        key = reshaped[0]
        raise CheckpointError(
            f"{folder} has {key} with the shape {list(saved[key].shape)}, and this model's adapter has "
            f"{list(wanted[key].shape)} ({len(reshaped)} of {len(wanted)} differ). "
            + _remedy(key, tuple(saved[key].shape), tuple(wanted[key].shape))
        )
    return found


def _remedy(key: str, saved: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Say in what a model and a checkpoint differ that have other shapes under one key."""
    if len(saved) != len(wanted):
        return "Use the share_expert_adapters that it was saved with."
    # A is [dim, in] and B is [out, dim], behind a dim for the layers or the experts.
    dim = -2 if key.endswith(_A) else -1
    if saved[dim] != wanted[dim]:
        also = ", and the normalize_moe_lora," if ".experts." in key else ""
        return f"Use the dim{also} that it was saved with."
    return "It is of another base model, or of another number of experts."


def _with_own_memory(tensor: Any) -> Any:
    """Return a description of the same shard with memory of its own to load into."""
    return replace(tensor, data=torch.empty_like(tensor.data))


def _written_adapters(model: Model, state: Mapping[str, Any]) -> list[ScaledAdapter]:
    """Return the scales of the adapters that this rank writes: others have copies of the rest."""
    from megatron.core.dist_checkpointing.mapping import is_main_replica

    return scaled_adapters(
        model, {name: tensor for name, tensor in state.items() if is_main_replica(tensor.replica_id)}
    )


def wanted_tensors(model: Model, state: Mapping[str, Any]) -> dict[str, Wanted]:
    """Return key -> tensor for what `state` is of, the `adapter_sharded_state` of `model` on this
    rank.
    """
    return {key: want for name, own in state.items() for key, want in shards.wanted(own, _factor_of(model, name))}


def _factor_of(model: Model, name: str) -> Factor:
    """Return the factor whose weight has the name `name` in a sharded state of the adapters."""
    number, _, path = name.rpartition(":")
    factor: Any = chunks_of(model)[int(number or 0)].get_submodule(path.removesuffix(".weight"))
    return factor  # type: ignore[no-any-return]


def scaled_adapters(model: Model, state: Mapping[str, Any]) -> list[ScaledAdapter]:
    """Return the scale of every adapter on this rank, under the keys of its tensors in `state`, the
    `adapter_sharded_state` of `model`.
    """
    chunks = chunks_of(model)
    scaled: list[ScaledAdapter] = []
    for name, tensor in state.items():
        if not name.endswith(_A):
            continue
        number, _, path = name.rpartition(":")
        adapter: Any = chunks[int(number or 0)].get_submodule(path.removesuffix(_A))
        scaled.append(
            ScaledAdapter(
                # With layer numbers in the targets, the number of the layer stands behind it.
                key=tensor.key.replace(_A, ""),
                index=tuple(tensor.global_offset[: tensor.prepend_axis_num]),
                scale=AdapterScale(float(adapter.alpha), adapter.dim),
            )
        )
    return scaled


def _warn_of_unknown_scales(model: Model, folder: Path) -> None:
    first = next(module for chunk in chunks_of(model) for module in chunk.modules() if isinstance(module, Adapter))
    warnings.warn(
        f"{folder} does not say with which alpha it was saved: an older clora wrote it, Megatron-Bridge, or a trainer "
        f"with the whole model. It is loaded with the alpha of this model ({first.alpha:g} for dim {first.dim}); make "
        "sure that it is the one of the training.",
        # The caller of `load_adapters`.
        stacklevel=3,
    )


_GUARD = (
    "megatron-core's writer is a process that imports your script again (multiprocessing's spawn). Put the calls of "
    'the script below a line `if __name__ == "__main__":`.'
)


def _refuse_to_run_in_the_writer() -> None:
    """Raise if this process is importing the script of the process that started it.

    Meanwhile the script is `__mp_main__`, and `__main__` is still multiprocessing's own program.
    """
    imported = sys.modules.get("__mp_main__")
    if imported is not None and imported is not sys.modules.get("__main__"):
        raise CheckpointError(f"save_adapters was called again while it was at work: {_GUARD}")


def _on_all_ranks(
    action: Callable[[], T], about: str = "", *, reason: Callable[[BaseException], str] | None = None
) -> T:
    """Run `action` and return its result; raise on all ranks when it fails on any.

    Args:
        action: what this rank does.
        about: the start of the message for an error that is not ours.
        reason: makes the rest of it from that error.
    """

    def as_error(error: BaseException) -> CheckpointError:
        cause = _missing_cuda(error) or (reason or _reason)(first_failure(error))
        return CheckpointError(f"{about}: {cause}" if about else cause)

    return together(action, as_error)


def _missing_cuda(error: BaseException) -> str:
    text = one_line(error)
    if torch.cuda.is_available() or not ("CUDA" in text or "NVIDIA" in text):
        return ""
    return (
        f"megatron-core needs CUDA, and this process has none ({text}). On a machine without a GPU, build the model "
        'and call this inside `with virtual_megatron("cpu"), virtual_cluster(Layout()):` of clora_inspect.virtual, as '
        "examples/prove.py does."
    )


def _reason(error: BaseException) -> str:
    """Return a sentence about an error that is not ours."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}."
    return one_line(error) or f"{type(error).__name__}."


def _why_not_written(error: BaseException) -> str:
    # The pipe to a process that never came up ends at once.
    if isinstance(error, EOFError):
        return f"the process that writes ended before it began. {_GUARD}"
    return _reason(error)


def _first_few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
