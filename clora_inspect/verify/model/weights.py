"""Real weights for the base model, from a distributed checkpoint of megatron-core. Read as data:
nothing in it is run.

Only its tensors are opened. What such a folder also has, the run's arguments and Transformer
Engine's states, are pickles of classes of others, and no proof asks for them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora.errors import CheckpointError, CloraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

LATEST = "latest_checkpointed_iteration.txt"
"""What megatron's training scripts keep beside the folders of iterations."""


class WeightsError(CloraError):
    """Weights that cannot be had, or are of another model."""


def weights_folder(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or the latest iteration in it. Looks at names and
    the index alone.

    Raises:
        WeightsError: it is no distributed checkpoint; the message says what it is, where that can
            be seen, and what to do.
    """
    from clora.checkpoint_metadata import read_tensors

    folder = _latest(path)
    if not folder.is_dir():
        raise WeightsError(f"--weights {path}: there is no folder {folder}.")
    names = {child.name for child in folder.iterdir()}
    if any(name.endswith(".safetensors") for name in names):
        raise WeightsError(
            f"--weights {folder} has Hugging Face weights, and the base is loaded from a distributed checkpoint of megatron-core. "
            "Convert it once, with Megatron-Bridge: AutoBridge.import_ckpt(FOLDER, NEW), then --weights NEW."
        )
    if any(name.startswith("mp_rank_") for name in names):
        raise WeightsError(
            f"--weights {folder} is a checkpoint of one pickle for each rank, which is never opened: it may run anything. "
            "Save it again with --ckpt-format torch_dist."
        )
    try:
        read_tensors(folder)
    except CheckpointError as error:
        raise WeightsError(f"--weights: {error}") from error
    return folder.resolve()


def load_weights(chunks: Sequence[nn.Module], folder: Path) -> None:
    """Fill a model that has no adapters yet. Called on every rank together, whatever layout the
    checkpoint was saved on.

    Raises:
        WeightsError: on every rank: the checkpoint lacks a tensor of the model, or has it in
            another shape.
    """
    import torch
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    from clora.adapter_checkpoint import base_sharded_state
    from clora.checkpoint_metadata import read_tensors

    state = {
        name: tensor
        for name, tensor in base_sharded_state(chunks).items()
        if isinstance(tensor, ShardedTensor | ShardedTensorFactory)
    }
    _check(state, read_tensors(folder), folder)
    # Into memory of its own: loading reshapes the pieces that it is given, and a model that it
    # fails for is not half another.
    asked = {name: replace(tensor, data=torch.empty_like(tensor.data)) for name, tensor in state.items()}
    try:
        loaded = dist_checkpointing.load(asked, str(folder), common_strategy=_tensors_only())
    except Exception as error:
        raise WeightsError(f"--weights {folder} cannot be read: {' '.join(str(error).split())}") from error
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.data.copy_(loaded[name])


def _check(state: dict[str, Any], saved: dict[str, tuple[int, ...]], folder: Path) -> None:
    from clora.all_ranks import gather_objects

    own: dict[str, tuple[tuple[int, ...], bool]] = {}
    for tensor in state.values():
        for piece in tensor.build() if hasattr(tensor, "build") else [tensor]:
            own[piece.key] = tuple(piece.global_shape), piece.allow_shape_mismatch
    wanted = {key: known for part in gather_objects(own) for key, known in part.items()}
    missing = sorted(wanted.keys() - saved.keys())
    if missing:
        raise WeightsError(
            f"--weights {folder} lacks {len(missing)} of the model's {len(wanted)} tensors ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}): it is of another model, or of another layer spec."
        )
    # An embedding may be padded to another number of rows: megatron-core loads what both have.
    other = sorted(key for key, (shape, may_differ) in wanted.items() if saved[key] != shape and not may_differ)
    if other:
        raise WeightsError(
            f"--weights {folder} has {other[0]} with the shape {list(saved[other[0]])}, and the model has {list(wanted[other[0]][0])} "
            f"({len(other)} of {len(wanted)} differ). Set the model's sizes to the checkpoint's, with --set model.FIELD=VALUE."
        )


def _tensors_only() -> Any:
    """A strategy for what is beside the tensors that leaves it alone."""
    from megatron.core.dist_checkpointing.strategies.common import TorchCommonLoadStrategy

    class TensorsOnly(TorchCommonLoadStrategy):  # type: ignore[misc]
        """Opens no file of its own."""

        def load_common(self, _folder: object) -> dict[str, Any]:
            """Nothing."""
            return {}

    return TensorsOnly()


def _latest(path: Path) -> Path:
    said = path / LATEST
    if not said.is_file():
        return path
    word = said.read_text(encoding="utf-8", errors="replace").strip()[:32]
    if word.isdecimal():
        return path / f"iter_{int(word):07d}"
    if word == "release":
        return path / word
    raise WeightsError(f"--weights {path}: {LATEST} says {word!r}, which is no iteration.")
