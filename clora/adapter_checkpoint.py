"""Save and load the adapters alone, as a megatron-core distributed checkpoint that any layout can
load.

`save_adapters` writes a folder; `load_adapters` fills a model with adapters of the same shapes from
it, on whatever layout. The folder appears under its name only when it is complete. A folder that is
damaged, or of other adapters, changes nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clora.all_ranks import gather_objects, own_rank, raise_together
from clora.checkpoint_metadata import read_tensors
from clora.errors import CheckpointError
from clora.linears import unwrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    Model = nn.Module | Sequence[nn.Module]

_ADAPTER = ".adapter."


def adapter_sharded_state(model: Model) -> dict[str, Any]:
    """megatron-core's sharded tensors of the adapters of `model` (or of its virtual pipeline
    chunks), nothing of the base.
    """
    return _sharded(model, adapters=True)


def base_sharded_state(model: Model) -> dict[str, Any]:
    """megatron-core's sharded tensors of the base, the same as before surgery: what a base
    checkpoint is loaded into.
    """
    return _sharded(model, adapters=False)


def save_adapters(model: Model, folder: str | Path) -> None:
    """Write the adapters of `model` to `folder`. Called on every rank; `folder` is on storage that
    all of them share.

    Raises:
        CheckpointError: the model has no adapters, `folder` exists already, or it cannot be
            written.
    """
    from megatron.core import dist_checkpointing

    folder = Path(folder)
    state = adapter_sharded_state(model)
    _raise_on_all_ranks(_saving_error(state, folder))
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    problem = _error_of(lambda: _make_empty(unfinished)) if own_rank() == 0 else None
    _raise_on_all_ranks(problem)
    _raise_on_all_ranks(_error_of(lambda: dist_checkpointing.save(state, str(unfinished))))
    problem = _error_of(lambda: unfinished.rename(folder)) if own_rank() == 0 else None
    _raise_on_all_ranks(problem)


def load_adapters(model: Model, folder: str | Path) -> None:
    """Fill the adapters of `model` from `folder`. Called on every rank; all of them succeed, or
    none changes anything.

    Raises:
        CheckpointError: `folder` is no checkpoint, is damaged, or is of other adapters: the message
            lists what is missing, unexpected or of another shape.
    """
    from megatron.core import dist_checkpointing

    folder = Path(folder)
    state = adapter_sharded_state(model)
    wanted = _gather_entries({key: shape for tensor in state.values() for key, shape in _shapes(tensor)})
    _raise_on_all_ranks(_error_of(lambda: _compare(wanted, folder)))
    loaded = {name: _with_own_memory(tensor) for name, tensor in state.items()}
    result: dict[str, Any] = {}
    _raise_on_all_ranks(
        _error_of(lambda: result.update(dist_checkpointing.load(loaded, str(folder))), f"{folder} cannot be read")
    )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.data.copy_(result[name])


def _sharded(model: Model, *, adapters: bool) -> dict[str, Any]:
    chunks = [unwrap(chunk) for chunk in (model if isinstance(model, Sequence) else [model])]
    state: dict[str, Any] = {}
    for number, chunk in enumerate(chunks):
        foreign: Any = chunk
        # Chunks number their layers each for itself, so names of two of them may be equal; keys
        # never are.
        prefix = f"{number}:" if len(chunks) > 1 else ""
        state |= {
            f"{prefix}{name}": tensor
            for name, tensor in foreign.sharded_state_dict().items()
            if (_ADAPTER in name) is adapters
        }
    return state


def _compare(wanted: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Compare what the model wants, on all ranks together, with what the folder has, before
    anything is read.
    """
    saved = {key: shape for key, shape in read_tensors(folder).items() if _ADAPTER in key}
    missing, unexpected = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
    reshaped = sorted(key for key in wanted.keys() & saved.keys() if wanted[key] != saved[key])
    if missing or unexpected:
        both = (("lacks", missing, "the model has"), ("has", unexpected, "the model lacks"))
        said = "; ".join(f"{verb} {len(keys)} that {who} ({_first_few(keys)})" for verb, keys, who in both if keys)
        raise CheckpointError(
            f"{folder} is of other adapters: it {said}. Adapt the model with the target_modules that it was saved with."
        )
    if reshaped:
        key = reshaped[0]
        raise CheckpointError(
            f"{folder} has {key} with the shape {list(saved[key])}, and this model's adapter has {list(wanted[key])} "
            f"({len(reshaped)} of {len(wanted)} differ). Use the dim and share_expert_adapters that it was saved with."
        )


def _shapes(tensor: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Key and shape of the whole tensor, or tensors, that an entry of a sharded state is a piece
    of.
    """
    pieces = tensor.build() if hasattr(tensor, "build") else [tensor]
    return [(piece.key, tuple(piece.global_shape)) for piece in pieces]


def _with_own_memory(tensor: Any) -> Any:
    """The same piece of the same tensor with memory of its own to load into."""
    return replace(tensor, data=torch.empty_like(tensor.data))


def _saving_error(state: Mapping[str, Any], folder: Path) -> str | None:
    if not any(gather_objects(bool(state))):
        return "There are no adapters to save: apply CanonicalLoRA to the model first."
    if own_rank() == 0 and folder.exists():
        return f"{folder} exists already and is not overwritten. Choose another name or remove it."
    return None


def _make_empty(folder: Path) -> None:
    """An empty folder, in place of what an interrupted save may have left there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _error_of(action: Any, about: str = "") -> str | None:
    """Run `action`; what went wrong, in a sentence, or None."""
    # torch's own exception for a checkpoint that a rank cannot read is no `Exception`.
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        action()
    except (Exception, CheckpointException) as error:  # noqa: BLE001 - upstream raises what it likes on a damaged checkpoint
        said = " ".join(str(error).split()) or type(error).__name__
        return f"{about}: {said}" if about and not isinstance(error, CheckpointError) else said
    return None


def _raise_on_all_ranks(problem: str | None) -> None:
    """Raise on every rank when there is a problem on any.

    Raises:
        CheckpointError: the first rank's problem.
    """
    raise_together(CheckpointError(problem) if problem else None)


def _gather_entries(mapping: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The entries of all ranks."""
    return {key: value for part in gather_objects(mapping) for key, value in part.items()}


def _first_few(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
