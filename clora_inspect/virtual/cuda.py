"""Replace the functions of `torch.cuda` that megatron-core calls while it builds a model.

It asks for the current device, for random states, and for streams that its classes keep. A torch
without CUDA raises on most of these calls.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch


class VirtualStream:
    """A CUDA stream on which all work is done.

    The CPU computes each operation before the call returns, so there is never anything to wait for.
    """

    cuda_stream = 0
    """The handle of the stream, an integer as in torch; 0 is the default stream."""
    priority = 0

    def __init__(self, *_args: object, **_options: object) -> None:
        pass

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def record_event(self, event: VirtualEvent | None = None) -> VirtualEvent:
        return event or VirtualEvent()

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
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
        pass

    def wait(self, stream: object = None) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: object) -> float:  # noqa: ARG002
        """Return 0 ms: all events happen at the same time."""
        return 0.0


@dataclass(frozen=True)
class VirtualProperties:
    """Properties of an H100. Kernels of megatron-core ask for them while they are declared."""

    name: str = "NVIDIA H100"
    major: int = 9
    minor: int = 0
    multi_processor_count: int = 132
    total_memory: int = 80 << 30
    shared_memory_per_block_optin: int = 232_448
    """Bytes."""


class _DefaultGenerators:
    """Stands in for `torch.cuda.default_generators`, the tuple of one random generator per GPU.

    `tensor_parallel/random.py` of megatron-core indexes it with `torch.cuda.current_device()`. That
    is an integer on a GPU and a `torch.device` here, so any index gives the CPU's generator.
    """

    def __getitem__(self, _index: object) -> torch.Generator:
        import torch

        return torch.default_generator

    def __len__(self) -> int:
        return 1


@contextmanager
def virtual_cuda(device: torch.device) -> Iterator[None]:
    """Make `torch.cuda` answer as if `device` were the current CUDA device; restore it on exit.

    `torch.cuda.is_available()` returns False, also on a machine with a GPU: nothing in the virtual
    world may use one.
    """
    import torch

    stream = VirtualStream()
    # Initialisation and dropout draw from the CPU's generator here, so that generator is the one
    # whose state megatron-core must save and restore as "the CUDA state".
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
        # An H100's, which the stand-in for Transformer Engine reports as well.
        "get_device_capability": _answering((9, 0)),
        "get_device_name": _answering("NVIDIA H100"),
        "get_device_properties": _answering(VirtualProperties()),
        "Stream": VirtualStream,
        "Event": VirtualEvent,
        "stream": lambda stream: stream if stream is not None else VirtualStream(),
        "set_stream": _answering(None),
        "current_stream": _answering(stream),
        "default_stream": _answering(stream),
        "default_generators": _DefaultGenerators(),
        # torch puts off calls until CUDA is initialised, which never happens here. megatron-core
        # sets random states through `_lazy_call`, so it runs the function at once.
        "_lazy_init": _answering(None),
        "_lazy_call": lambda function, **_options: function(),
    }
    with ExitStack() as stack:
        # torch.cuda re-exports these functions of torch.cuda.random: callers use either name.
        stack.enter_context(replaced(torch.cuda.random, random))
        stack.enter_context(replaced(torch.cuda, functions))
        stack.enter_context(replaced(torch.cuda.nvtx, {"range_push": _answering(None), "range_pop": _answering(None)}))
        stack.enter_context(replaced(torch.Tensor, {"record_stream": _answering(None)}))
        stack.enter_context(_without_generator_warning())
        yield


@contextmanager
def _without_generator_warning() -> Iterator[None]:
    """Drop megatron-core's warning "CPU RNG state changed within GPU RNG context".

    `CudaRNGStatesTracker.fork` logs it if the CPU's generator moved while the GPU's should have.
    Here both are one generator, so each initialisation of a parameter would log it.
    """
    logger = logging.getLogger("megatron.core.tensor_parallel.random")

    def is_kept(record: logging.LogRecord) -> bool:
        return "CPU RNG state changed" not in record.getMessage()

    logger.addFilter(is_kept)
    try:
        yield
    finally:
        logger.removeFilter(is_kept)


def _answering(value: object) -> Callable[..., object]:
    """Return a new function that takes any arguments and returns `value`.

    Each call makes another function: torch's dynamo keeps a table of functions by identity, and
    refuses to start if two names of `torch.cuda` are one object.
    """
    return lambda *_args, **_options: value
