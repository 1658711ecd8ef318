"""Load real weights into the base model, from a distributed checkpoint of megatron-core.

Only its tensors are opened. Such a folder also has the run's arguments and Transformer Engine's
states as pickles, which can run code when they are opened, and no proof needs them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clora.errors import CheckpointError, CloraError
from clora.folders.checkpoint_metadata import read_tensors, why_not_read
from clora_inspect.checkpoint.asked import tensors_in
from clora_inspect.checkpoint.folder import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn


class WeightsError(CloraError):
    """The weights cannot be read, or belong to another model."""


def weights_folder(path: Path) -> Path:
    """Return the checkpoint that `path` means: the folder itself, or its latest iteration. Reads
    names and the index, not tensors.

    Raises:
        WeightsError: it is not a distributed checkpoint; the message says what it is and what to
            do.
    """
    try:
        return open_checkpoint(path).folder
    except CheckpointError as error:
        raise WeightsError(f"--weights: {error}") from error


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
    from clora.sharding.checkpoint import tensors_only

    state = {
        name: tensor
        for name, tensor in base_sharded_state(chunks).items()
        if isinstance(tensor, ShardedTensor | ShardedTensorFactory)
    }
    _check(state, read_tensors(folder), folder)
    # Load into new memory: dist_checkpointing reshapes the tensors that it loads into, and a load
    # that fails half-way must not leave a mixture of two models.
    wanted = {name: replace(tensor, data=torch.empty_like(tensor.data)) for name, tensor in state.items()}
    with tensors_only():
        loaded = together(
            lambda: dist_checkpointing.load(wanted, str(folder)),
            lambda error: WeightsError(f"--weights {folder} cannot be read: {why_not_read(error)}"),
        )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.data.copy_(loaded[name])


def _check(state: dict[str, Any], saved: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Compare the model's tensors on all ranks with the names and shapes in the checkpoint."""
    from clora.all_ranks import gather_objects

    wanted = {key: known for part in gather_objects(tensors_in(state)) for key, known in part.items()}
    missing = sorted(wanted.keys() - saved.keys())
    if missing:
        raise WeightsError(
            f"--weights {folder} lacks {len(missing)} of the model's {len(wanted)} tensors ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}): it belongs to another model, or to another layer spec."
        )
    # Some shapes may differ: an embedding is padded to another number of rows on another tp, and
    # megatron-core loads the rows that both have.
    other = sorted(key for key, tensor in wanted.items() if saved[key] != tensor.shape and not tensor.may_differ)
    if other:
        first = other[0]
        raise WeightsError(
            f"--weights {folder} has {first} with the shape {list(saved[first])}, and the model has "
            f"{list(wanted[first].shape)} ({len(other)} of {len(wanted)} differ). Set the model's sizes to the "
            "checkpoint's, with --set model.FIELD=VALUE."
        )
