"""Inert stand-ins for what megatron-core asks of `torch.cuda` on the way to a model."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch


class VirtualStream:
    """A CUDA stream on which everything has already happened."""

    cuda_stream = 0
    priority = 0

    def __init__(self, *_args: object, **_options: object) -> None:
        pass

    def wait_stream(self, stream: object) -> None:
        """Nothing to wait for."""

    def wait_event(self, event: object) -> None:
        """Nothing to wait for."""

    def record_event(self, event: VirtualEvent | None = None) -> VirtualEvent:
        """An event that has happened."""
        return event or VirtualEvent()

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def query(self) -> bool:
        """Whether all work is done: always."""
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass


class VirtualEvent:
    """A CUDA event that has already happened."""

    def __init__(self, *_args: object, **_options: object) -> None:
        pass

    def record(self, stream: object = None) -> None:
        """Already recorded."""

    def wait(self, stream: object = None) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def query(self) -> bool:
        """Whether the event has happened: always."""
        return True

    def elapsed_time(self, end_event: object) -> float:  # noqa: ARG002
        """Milliseconds between two events of a clock that stands still."""
        return 0.0


class _Generators:
    """`torch.cuda.default_generators` of one virtual device: whatever the index, torch's own CPU
    generator.
    """

    def __getitem__(self, _index: object) -> torch.Generator:
        import torch

        return torch.default_generator

    def __len__(self) -> int:
        return 1


@contextmanager
def virtual_cuda(device: torch.device) -> Iterator[None]:
    """Let `torch.cuda` answer as if `device` were the current CUDA device, streams and all.

    `torch.cuda.is_available()` says no, also on a machine with a GPU: nothing in the virtual world
    may touch one. The CUDA generator is the CPU's, because that is where initialisation and dropout
    draw their numbers here.
    """
    import torch

    stream = VirtualStream()
    random = {
        "get_rng_state": lambda device=None: torch.get_rng_state(),  # noqa: ARG005
        "set_rng_state": lambda new_state, device=None: torch.set_rng_state(new_state),  # noqa: ARG005
        "manual_seed": torch.default_generator.manual_seed,
        "manual_seed_all": torch.default_generator.manual_seed,
    }
    functions = {
        **random,
        "is_available": _answering(False),
        "is_initialized": _answering(False),
        "device_count": _answering(0),
        "current_device": _answering(device),
        "set_device": _answering(None),
        "synchronize": _answering(None),
        "empty_cache": _answering(None),
        "memory_allocated": _answering(0),
        "max_memory_allocated": _answering(0),
        "get_device_capability": _answering((9, 0)),
        "Stream": VirtualStream,
        "Event": VirtualEvent,
        "stream": lambda stream: stream if stream is not None else VirtualStream(),
        "set_stream": _answering(None),
        "current_stream": _answering(stream),
        "default_stream": _answering(stream),
        "default_generators": _Generators(),
        "_lazy_init": _answering(None),
        "_lazy_call": lambda function, **_options: function(),
    }
    with ExitStack() as stack:
        stack.enter_context(replaced(torch.cuda.random, random))
        stack.enter_context(replaced(torch.cuda, functions))
        stack.enter_context(replaced(torch.cuda.nvtx, {"range_push": _answering(None), "range_pop": _answering(None)}))
        stack.enter_context(replaced(torch.Tensor, {"record_stream": _answering(None)}))
        stack.enter_context(_one_generator())
        yield


@contextmanager
def _one_generator() -> Iterator[None]:
    """Keep megatron-core from warning that the CPU's generator moved when the GPU's should: here
    they are the same.
    """
    logger = logging.getLogger("megatron.core.tensor_parallel.random")

    def unexpected(record: logging.LogRecord) -> bool:
        return "CPU RNG state changed" not in record.getMessage()

    logger.addFilter(unexpected)
    try:
        yield
    finally:
        logger.removeFilter(unexpected)


def _answering(value: object) -> Callable[..., object]:
    """A function of its own that always answers `value`; dynamo refuses to start when two names
    share a function.
    """
    return lambda *_args, **_options: value
