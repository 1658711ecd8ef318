"""Load checkpoints that Megatron-Bridge saved with adapters of its own, inside its own loader.

With several tensor-parallel ranks it saves the rows of gate and up in another order, and other
tensors in other shapes (`clora.bridge_checkpoint`). Every loader of it calls megatron-core's
`dist_checkpointing.load`, which is extended here: what lies in another form is read in that form.
What `clora.bridge` saves is in clora's form, which any layout reads.
"""

from __future__ import annotations

from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora.all_ranks import gather_objects, together
from clora.bridge_checkpoint import forms, shards
from clora.errors import CheckpointError
from clora.folders.checkpoint_metadata import read_pieces, why_not_read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from clora.bridge_checkpoint.shards import Reading

    Keys = tuple[str, ...]
    """The keys that lead to an entry of a nested state."""

FACTOR = "clora_factor"
"""Attribute of a shard that says of which factor it is."""
_PREPARED = "prepared_by_clora"


def prepare_checkpoints() -> None:
    """Let megatron-core load adapters in the forms of Megatron-Bridge. All ranks call this."""
    from megatron.core import dist_checkpointing

    if _PREPARED not in vars(dist_checkpointing.load):
        dist_checkpointing.load = _loading_any_form(dist_checkpointing.load)


def _loading_any_form(load: Callable[..., Any]) -> Callable[..., Any]:
    parameters = signature(load)

    @wraps(load)
    def load_any_form(sharded_state_dict: dict[str, Any], checkpoint_dir: Any, *args: Any, **named: Any) -> Any:
        asked = parameters.bind(sharded_state_dict, checkpoint_dir, *args, **named)
        asked.apply_defaults()
        # Only then do all ranks load together: this option makes them compare what each reads.
        agree = bool(asked.arguments["validate_access_integrity"])
        readings = _agreed(lambda: _readings(sharded_state_dict, Path(checkpoint_dir)), agree)
        if not any(gather_objects(bool(readings)) if agree else [bool(readings)]):
            return load(*asked.args, **asked.kwargs)
        asked.arguments["sharded_state_dict"] = _replaced(
            sharded_state_dict, {keys: reading.shards for keys, reading in readings.items()}
        )
        # Rows that every rank puts in order are read by several of them.
        asked.arguments["validate_access_integrity"] = False
        loaded = load(*asked.args, **asked.kwargs)
        state = loaded[0] if isinstance(loaded, tuple) else loaded
        weights = _agreed(lambda: {keys: reading.weight(_at(state, keys)) for keys, reading in readings.items()}, agree)
        for keys, weight in weights.items():
            _at(state, keys[:-1])[keys[-1]] = weight
        return loaded

    setattr(load_any_form, _PREPARED, True)
    return load_any_form


def _readings(state: Mapping[str, Any], folder: Path) -> dict[Keys, Reading]:
    """Return how to read each adapter of `state` that `folder` holds in a form of Megatron-Bridge.

    Raises:
        CheckpointError: `folder` cannot be read, holds other adapters, or holds moments of the
            optimizer in the same form.
    """
    own = {keys: shard for keys, shard in _shards(state) if FACTOR in vars(shard)}
    if not own:
        return {}
    factors = {keys: vars(shard)[FACTOR] for keys, shard in own.items()}
    wanted = {keys: dict(shards.wanted(shard, factors[keys])) for keys, shard in own.items()}
    everything = {key: want for part in wanted.values() for key, want in part.items()}
    saved = read_pieces(folder, ".linear_")
    found = forms.forms_of(everything, saved)
    _refuse_missing(everything.keys() - found.keys(), saved.keys(), folder)
    readings = {
        keys: shards.reading(own[keys], factors[keys], form)
        for keys, part in wanted.items()
        if (form := found.get(next(iter(part)))) is not None and not form.is_ours
    }
    if readings and any("optim" in name and value for name, value in state.items()):
        raise CheckpointError(
            f"Megatron-Bridge saved {folder} with adapters of its own, whose rows are put in order while they are "
            "loaded; the moments of the optimizer cannot be. Load the adapters alone: checkpoint.load_optim=False."
        )
    return readings


def _refuse_missing(missing: set[str], saved: Any, folder: Path) -> None:
    adapters = [key for key in saved if ".adapter." in key]
    # A checkpoint without any adapter is of a base; what to do with it is for the trainer to say.
    if not missing or not adapters:
        return
    first = min(missing)
    raise CheckpointError(
        f"{folder} has not {first} in the shape of this model's adapter ({len(missing)} of them): "
        + (
            forms.explanation(sorted(missing), sorted(adapters))
            or "adapt the model with the target_modules, dim and share_expert_adapters that it was saved with."
        )
    )


def _shards(state: Mapping[str, Any], keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield the keys and the object of each shard in a nested state."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _shards(value, (*keys, key))
        elif hasattr(value, "__dict__"):
            yield (*keys, key), value


def _replaced(state: dict[str, Any], new: Mapping[Keys, Any], keys: Keys = ()) -> dict[str, Any]:
    """Return a copy of `state` with other entries at the keys of `new`."""
    return {
        key: _replaced(value, new, (*keys, key)) if isinstance(value, dict) else new.get((*keys, key), value)
        for key, value in state.items()
    }


def _at(state: Any, keys: Keys) -> Any:
    for key in keys:
        state = state[key]
    return state


def _agreed(action: Callable[[], Any], agree: bool) -> Any:
    """Return what `action` returns; with `agree`, raise on all ranks when it fails on any."""
    if not agree:
        return action()
    return together(action, lambda error: CheckpointError(f"The checkpoint cannot be read: {why_not_read(error)}"))
