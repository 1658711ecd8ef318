"""Stand-in for Triton, the language in which megatron-core writes kernels for GPUs.

Only megatron-core's own modules find it (`megatron_imports.py`). It is not in `sys.modules` under
the original's name: there torch's compiler would find it, and look for the rest of Triton.

Kernels can be declared here, which megatron-core does while it is imported. They cannot be run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from clora_inspect.virtual.triton import language

if TYPE_CHECKING:
    from collections.abc import Callable

__version__ = "3.6.0"
"""The release whose declarations the stand-in takes."""

__all__ = ["Config", "autotune", "cdiv", "heuristics", "jit", "language", "next_power_of_2"]


class Kernel:
    """A function that would be compiled for a GPU."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.fn = function
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__

    def __getitem__(self, _grid: object) -> Kernel:
        """Return what `kernel[grid]` is called on."""
        return self

    def __call__(self, *_args: object, **_options: object) -> NoReturn:
        raise NotImplementedError(f"megatron-core's kernel {self.__name__} computes on a GPU only.")


class Config:
    """One choice of sizes that the original tries for a kernel."""

    def __init__(self, kwargs: dict[str, Any], **options: object) -> None:
        self.kwargs = kwargs
        self.options = options


def jit(function: Callable[..., Any] | None = None, **_options: object) -> Any:
    """Declare a kernel, as a decorator with or without options."""
    return jit if function is None else Kernel(function)


def autotune(*_args: object, **_options: object) -> Callable[[Any], Any]:
    """Return a decorator that leaves a kernel as it is: nothing is tried out."""
    return _unchanged


def heuristics(*_args: object, **_options: object) -> Callable[[Any], Any]:
    """Return a decorator that leaves a kernel as it is."""
    return _unchanged


def _unchanged(kernel: Any) -> Any:
    return kernel


def cdiv(x: int, y: int) -> int:
    """Return `x / y`, rounded up."""
    return -(-x // y)


def next_power_of_2(n: int) -> int:
    """Return the smallest power of two that is at least `n`, a positive number."""
    return 1 << (n - 1).bit_length()
