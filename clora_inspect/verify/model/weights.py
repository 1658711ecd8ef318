"""Load real weights into the base model, from a distributed checkpoint of megatron-core.

Only its tensors are opened. Such a folder also has the run's arguments and Transformer Engine's
states as pickles, which can run code when they are opened, and no proof needs them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora.checkpoint_metadata import read_tensors, why_not_read
from clora.errors import CheckpointError, CloraError
from clora.regular_file import read_beginning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

LATEST = "latest_checkpointed_iteration.txt"
"""File that megatron's training scripts keep beside the folders of iterations."""


class WeightsError(CloraError):
    """The weights cannot be read, or belong to another model."""


def weights_folder(path: Path) -> Path:
    """Return the checkpoint that `path` means: the folder itself, or its latest iteration. Reads
    names and the index, not tensors.

    Raises:
        WeightsError: it is not a distributed checkpoint; the message says what it is and what to
            do.
    """
    folder = _latest(path)
    if not folder.is_dir():
        raise WeightsError(f"--weights {path}: there is no folder {folder}.")
    names = {child.name for child in folder.iterdir()}
    if any(name.endswith(".safetensors") for name in names):
        raise WeightsError(
            f"--weights {folder} has Hugging Face weights, and the base is loaded from a distributed checkpoint of "
            "megatron-core. Convert it once, with Megatron-Bridge: AutoBridge.import_ckpt(FOLDER, NEW), then "
            "--weights NEW."
        )
    if any(name.startswith("mp_rank_") for name in names):
        raise WeightsError(
            f"--weights {folder} is a checkpoint of one pickle for each rank, which is never opened: a pickle can run "
            "any code. Save it again with --ckpt-format torch_dist."
        )
    try:
        read_tensors(folder)
    except CheckpointError as error:
        raise WeightsError(f"--weights: {error}") from error
    return folder.resolve()


def load_weights(chunks: Sequence[nn.Module], folder: Path) -> None:
    """Fill a model that has no adapters yet. Called on every rank together; the checkpoint may have
    been saved on any layout.

    Raises:
        WeightsError: the checkpoint lacks a tensor of the model, or has it in another shape. It is
            raised on every rank.
    """
    import torch
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    from clora.adapter_checkpoint import base_sharded_state
    from clora.all_ranks import together

    state = {
        name: tensor
        for name, tensor in base_sharded_state(chunks).items()
        if isinstance(tensor, ShardedTensor | ShardedTensorFactory)
    }
    _check(state, read_tensors(folder), folder)
    # Load into new memory: dist_checkpointing reshapes the tensors that it loads into, and a load
    # that fails half-way must not leave a mixture of two models.
    wanted = {name: replace(tensor, data=torch.empty_like(tensor.data)) for name, tensor in state.items()}
    loaded = together(
        lambda: dist_checkpointing.load(wanted, str(folder), common_strategy=_tensors_only()),
        lambda error: WeightsError(f"--weights {folder} cannot be read: {why_not_read(error)}"),
    )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.data.copy_(loaded[name])


def _check(state: dict[str, Any], saved: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Compare the model's tensors on all ranks with the names and shapes in the checkpoint."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    from clora.all_ranks import gather_objects

    own: dict[str, tuple[tuple[int, ...], bool]] = {}
    for tensor in state.values():
        for piece in tensor.build() if isinstance(tensor, ShardedTensorFactory) else [tensor]:
            own[piece.key] = tuple(piece.global_shape), piece.allow_shape_mismatch
    wanted = {key: known for part in gather_objects(own) for key, known in part.items()}
    missing = sorted(wanted.keys() - saved.keys())
    if missing:
        raise WeightsError(
            f"--weights {folder} lacks {len(missing)} of the model's {len(wanted)} tensors ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}): it belongs to another model, or to another layer spec."
        )
    # Some shapes may differ: an embedding is padded to another number of rows on another tp, and
    # megatron-core loads the rows that both have.
    other = sorted(key for key, (shape, may_differ) in wanted.items() if saved[key] != shape and not may_differ)
    if other:
        first = other[0]
        raise WeightsError(
            f"--weights {folder} has {first} with the shape {list(saved[first])}, and the model has "
            f"{list(wanted[first][0])} ({len(other)} of {len(wanted)} differ). Set the model's sizes to the "
            "checkpoint's, with --set model.FIELD=VALUE."
        )


def _tensors_only() -> Any:
    """Return a load strategy that opens no file except the tensors'."""
    from megatron.core.dist_checkpointing.strategies.common import TorchCommonLoadStrategy

    class TensorsOnly(TorchCommonLoadStrategy):  # type: ignore[misc]
        def load_common(self, _folder: object) -> dict[str, Any]:
            return {}

    return TensorsOnly()


def _latest(path: Path) -> Path:
    file = path / LATEST
    if not file.exists():
        return path
    # Cut once more: the message below quotes it.
    iteration = _beginning(file).decode(errors="replace").strip()[:32]
    if iteration.isdecimal():
        return path / f"iter_{int(iteration):07d}"
    if iteration == "release":
        return path / iteration
    raise WeightsError(f"--weights {path}: {LATEST} says {iteration!r}, which is not an iteration.")


def _beginning(file: Path) -> bytes:
    try:
        # A wrong file may hold anything, and any amount of it.
        return read_beginning(file, 256)
    except OSError as error:
        raise WeightsError(f"--weights: {file} cannot be read: {error.strerror or error}.") from None
