"""Random states, activation recomputation."""

from __future__ import annotations

from contextlib import ContextDecorator, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import checkpoint as torch_checkpoint

from ..missing import refusing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_states: dict[str, torch.Tensor] = {}


def get_all_rng_states() -> dict[str, torch.Tensor]:
    """The states of the tracker in use."""
    return _states


def set_all_rng_states(states: dict[str, torch.Tensor]) -> None:
    """Make `states` those of the tracker in use."""
    global _states  # noqa: PLW0603
    _states = states


class CudaRNGStatesTracker:
    """Named states of the device's random generator, each continued where it was left."""

    def __init__(self) -> None:
        self.states_: dict[str, torch.Tensor] = {}
        self.seeds_: set[int] = set()

    def reset(self) -> None:
        """Forget all states."""
        self.states_ = {}
        self.seeds_ = set()

    def get_states(self) -> dict[str, torch.Tensor]:
        """A copy of the names, not of the states."""
        return dict(self.states_)

    def set_states(self, states: dict[str, torch.Tensor]) -> None:
        """Replace all states."""
        self.states_ = states
        set_all_rng_states(states)

    def add(self, name: str, seed: int) -> None:
        """Start a new state from a seed.

        Raises:
            RuntimeError: the seed or the name is in use.
        """
        if seed in self.seeds_:
            raise RuntimeError(f"seed {seed} already exists")
        if name in self.states_:
            raise RuntimeError(f"cuda rng state {name} already exists")
        self.seeds_.add(seed)
        before = torch.cuda.get_rng_state()
        torch.cuda.manual_seed(seed)
        self.states_[name] = torch.cuda.get_rng_state()
        torch.cuda.set_rng_state(before)
        set_all_rng_states(self.states_)

    @contextmanager
    def fork(self, name: str = "model-parallel-rng") -> Iterator[None]:
        """Draw from the named state inside.

        Raises:
            KeyError: there is none of that name.
        """
        if name not in self.states_:
            raise KeyError(f"cuda rng state {name} is not added")
        before = torch.cuda.get_rng_state()
        torch.cuda.set_rng_state(self.states_[name])
        try:
            yield
        finally:
            self.states_[name] = torch.cuda.get_rng_state()
            torch.cuda.set_rng_state(before)


class activation_recompute_forward(ContextDecorator):  # noqa: N801
    """Marks the two forwards of recomputation, which only FP8 state needs to tell apart."""

    def __init__(self, activation_recompute: bool = False, recompute_phase: bool = False) -> None:
        self.activation_recompute = activation_recompute
        self.recompute_phase = recompute_phase

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_exception: object) -> None:
        pass


def is_fp8_activation_recompute_enabled() -> bool:
    """Whether FP8 state must be kept for recomputation."""
    return False


def in_fp8_activation_recompute_phase() -> bool:
    """Whether this forward repeats one with FP8 state."""
    return False


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    distribute_saved_activations: bool = False,
    get_rng_state_tracker: Callable[[], Any] | None = None,
    tp_group: object = None,
    use_reentrant: bool = True,
    context_fn: Callable[[], Any] | None = None,
    determinism_check: str = "default",
    **kwargs: Any,
) -> Any:
    """Forward now, and again in backward, with the tracked random states as they were.

    `distribute_saved_activations` only changes where activations are kept.
    """
    if get_rng_state_tracker is None:
        return torch_checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)
    tracker = get_rng_state_tracker()
    at_forward = tracker.get_states()

    @contextmanager
    def again() -> Iterator[None]:
        now = tracker.get_states()
        tracker.set_states(dict(at_forward))
        try:
            yield
        finally:
            tracker.set_states(now)

    return torch_checkpoint.checkpoint(
        function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again()), **kwargs
    )


def get_distributed_world_size(group: Any = None) -> int:
    """Ranks in the group; 1 without torch.distributed."""
    return torch.distributed.get_world_size(group) if torch.distributed.is_initialized() else 1


def get_distributed_rank(group: Any = None) -> int:
    """This process's rank in the group."""
    return torch.distributed.get_rank(group)


__getattr__ = refusing(__name__)
