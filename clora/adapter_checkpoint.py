"""Save and load the adapters alone, as a megatron-core distributed checkpoint.

`save_adapters` writes a folder, and `load_adapters` fills a model from it that has adapters of the
same shapes, on any layout. The folder appears under its name only when it is complete. A folder
that is damaged, or that holds other adapters, changes nothing in the model.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clora.all_ranks import gather_objects, own_rank, raise_together
from clora.checkpoint_metadata import read_tensors
from clora.errors import CheckpointError
from clora.linears import chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from clora.linears import Model

_ADAPTER = ".adapter."
"""Part of the name of every parameter and key of an adapter, and of no other."""


def adapter_sharded_state(model: Model) -> dict[str, Any]:
    """Return megatron-core's sharded tensors of the adapters only.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.
    """
    return _sharded(model, adapters=True)


def base_sharded_state(model: Model) -> dict[str, Any]:
    """Return megatron-core's sharded tensors of the base, which are those of the unadapted model.

    Pass the result to `megatron.core.dist_checkpointing.load` to load a base checkpoint into a
    model that is adapted already.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks. The names of several
            chunks get a prefix: "0:", "1:", ...
    """
    return _sharded(model, adapters=False)


def save_adapters(model: Model, folder: str | Path) -> None:
    """Write the adapters of `model` to the new `folder`. All ranks must call this.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.
        folder: on storage that all ranks share. It must not exist.

    Raises:
        CheckpointError: the model has no adapters, `folder` exists already, or it cannot be
            written. All ranks raise it.
    """
    from megatron.core import dist_checkpointing

    folder = Path(folder)
    state = adapter_sharded_state(model)
    # After each step all ranks agree whether it worked: one that went on alone would wait forever.
    _raise_on_all_ranks(_saving_error(state, folder))
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    problem = _error_of(lambda: _make_empty(unfinished)) if own_rank() == 0 else None
    _raise_on_all_ranks(problem)
    _raise_on_all_ranks(_error_of(lambda: dist_checkpointing.save(state, str(unfinished))))
    problem = _error_of(lambda: unfinished.rename(folder)) if own_rank() == 0 else None
    _raise_on_all_ranks(problem)


def load_adapters(model: Model, folder: str | Path) -> None:
    """Fill the adapters of `model` from `folder`. All ranks must call this.

    Args:
        model: one model, adapted as the saved one was, or the list of its virtual pipeline chunks.
            Its layout may be another.
        folder: what `save_adapters` wrote.

    Raises:
        CheckpointError: `folder` is not a checkpoint, is damaged, or holds other adapters; the
            message lists what is missing, unexpected or of another shape. All ranks raise it, and
            no model was changed.
    """
    from megatron.core import dist_checkpointing

    folder = Path(folder)
    state = adapter_sharded_state(model)
    wanted = _gather_entries({key: shape for tensor in state.values() for key, shape in _shapes(tensor)})
    _raise_on_all_ranks(_error_of(lambda: _compare(wanted, folder)))
    # Load into fresh memory: a damaged file is found only while reading, when part of it is loaded.
    loaded = {name: _with_own_memory(tensor) for name, tensor in state.items()}
    result: dict[str, Any] = {}
    _raise_on_all_ranks(
        _error_of(lambda: result.update(dist_checkpointing.load(loaded, str(folder))), f"{folder} cannot be read")
    )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.data.copy_(result[name])


def _sharded(model: Model, *, adapters: bool) -> dict[str, Any]:
    chunks = chunks_of(model)
    state: dict[str, Any] = {}
    for number, chunk in enumerate(chunks):
        foreign: Any = chunk
        # Each chunk numbers its layers from 0, so two chunks may have equal names. Keys have the
        # numbers in the whole model and are never equal.
        prefix = f"{number}:" if len(chunks) > 1 else ""
        state |= {
            f"{prefix}{name}": tensor
            for name, tensor in foreign.sharded_state_dict().items()
            if (_ADAPTER in name) is adapters
        }
    return state


def _compare(wanted: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raise unless `folder` holds just the tensors that the model wants on all ranks together."""
    saved = {key: shape for key, shape in read_tensors(folder).items() if _ADAPTER in key}
    missing, unexpected = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
    reshaped = sorted(key for key in wanted.keys() & saved.keys() if wanted[key] != saved[key])
    if missing or unexpected:
        both = (("lacks", missing, "the model has"), ("has", unexpected, "the model lacks"))
        differences = "; ".join(
            f"{verb} {len(keys)} that {which} ({_first_few(keys)})" for verb, keys, which in both if keys
        )
        raise CheckpointError(
            f"{folder} is of other adapters: it {differences}. "
            "Adapt the model with the target_modules that it was saved with."
        )
    if reshaped:
        key = reshaped[0]
        raise CheckpointError(
            f"{folder} has {key} with the shape {list(saved[key])}, and this model's adapter has {list(wanted[key])} "
            f"({len(reshaped)} of {len(wanted)} differ). Use the dim and share_expert_adapters that it was saved with."
        )


def _shapes(tensor: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Return key and full shape of the tensors that one entry of a sharded state is a shard of."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    # A B of gate and up together is a factory of two shards.
    pieces = tensor.build() if isinstance(tensor, ShardedTensorFactory) else [tensor]
    return [(piece.key, tuple(piece.global_shape)) for piece in pieces]


def _with_own_memory(tensor: Any) -> Any:
    """Return a description of the same shard with memory of its own to load into."""
    return replace(tensor, data=torch.empty_like(tensor.data))


def _saving_error(state: Mapping[str, Any], folder: Path) -> str | None:
    if not any(gather_objects(bool(state))):
        return "There are no adapters to save: apply CanonicalLoRA to the model first."
    if own_rank() == 0 and folder.exists():
        return f"{folder} exists already and is not overwritten. Choose another name or remove it."
    return None


def _make_empty(folder: Path) -> None:
    """Make `folder` an empty folder. An interrupted save may have left files there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _error_of(action: Callable[[], object], about: str = "") -> str | None:
    """Run `action` and return None, or a sentence about its error that starts with `about`."""
    # torch raises this one when a rank cannot read a checkpoint, and it is not an `Exception`.
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        action()
    except (Exception, CheckpointException) as error:  # noqa: BLE001 - upstream raises what it likes on a damaged checkpoint
        message = " ".join(str(error).split()) or type(error).__name__
        return f"{about}: {message}" if about and not isinstance(error, CheckpointError) else message
    return None


def _raise_on_all_ranks(problem: str | None) -> None:
    """Raise the problem of the first rank that has one on all ranks."""
    raise_together(CheckpointError(problem) if problem else None)


def _gather_entries(mapping: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the entries of all ranks in one mapping."""
    return {key: value for part in gather_objects(mapping) for key, value in part.items()}


def _first_few(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
