"""Stand-in for `transformer_engine.pytorch.distributed`: random states and recomputation.

`tensor_parallel/random.py` of megatron-core can use this tracker of random states instead of its
own, and its transformer layer recomputes through this `checkpoint`.
"""

from __future__ import annotations

from contextlib import ContextDecorator, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import checkpoint as torch_checkpoint

from ..missing import refuse_unknown_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_states: dict[str, torch.Tensor] = {}
"""States of the tracker that was changed last: name -> state of the generator."""


def get_all_rng_states() -> dict[str, torch.Tensor]:
    return _states


def set_all_rng_states(states: dict[str, torch.Tensor]) -> None:
    global _states  # noqa: PLW0603
    _states = states


class CudaRNGStatesTracker:
    """Named random states. Each continues where it was left when its `fork` ended.

    `torch.cuda.get_rng_state` and the others are the CPU's inside the virtual world: see `cuda.py`.
    """

    def __init__(self) -> None:
        self.states_: dict[str, torch.Tensor] = {}
        self.seeds_: set[int] = set()

    def reset(self) -> None:
        self.states_ = {}
        self.seeds_ = set()

    def get_states(self) -> dict[str, torch.Tensor]:
        """Return a new dict of the states, which themselves are not copied."""
        return dict(self.states_)

    def set_states(self, states: dict[str, torch.Tensor]) -> None:
        self.states_ = states
        set_all_rng_states(states)

    def add(self, name: str, seed: int) -> None:
        """Add a state that starts from a seed.

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
        """Make torch draw from the named state inside.

        Raises:
            KeyError: no state has that name.
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
    """Mark the first or the second forward of recomputation; only FP8 needs to tell them apart."""

    def __init__(self, activation_recompute: bool = False, recompute_phase: bool = False) -> None:
        self.activation_recompute = activation_recompute
        self.recompute_phase = recompute_phase

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_exception: object) -> None:
        pass


def is_fp8_activation_recompute_enabled() -> bool:
    return False


def in_fp8_activation_recompute_phase() -> bool:
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
    """Run `function` now, and again in backward from the same random states; keep no activations.

    Args:
        function: what to run.
        args: arguments of `function`.
        distribute_saved_activations: ignored; it only changes where the arguments are kept.
        get_rng_state_tracker: returns the tracker whose states the second run starts from.
        tp_group: ignored, as `distribute_saved_activations` is.
        use_reentrant: ignored: torch's other variant computes the same.
        context_fn: ignored.
        determinism_check: ignored.
        kwargs: keyword arguments of `function`.

    Returns:
        What `function` returns.
    """
    if get_rng_state_tracker is None:
        return torch_checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)
    tracker = get_rng_state_tracker()
    at_forward = tracker.get_states()

    # torch restores its own generator's state before the second run, but not the tracker's states.
    @contextmanager
    def second_run() -> Iterator[None]:
        now = tracker.get_states()
        tracker.set_states(dict(at_forward))
        try:
            yield
        finally:
            tracker.set_states(now)

    return torch_checkpoint.checkpoint(
        function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), second_run()), **kwargs
    )


def get_distributed_world_size(group: Any = None) -> int:
    """Return the number of ranks in the group; 1 if torch.distributed is not initialised."""
    return torch.distributed.get_world_size(group) if torch.distributed.is_initialized() else 1


def get_distributed_rank(group: Any = None) -> int:
    return torch.distributed.get_rank(group)


__getattr__ = refuse_unknown_names(__name__)
