"""Stand in for `torch.compile`, with which megatron-core's `jit_fuser` decorates functions.

They run uncompiled: compiling imports torch's dynamo, 1.6 s for code that a plan never calls. On a
GPU each is one kernel that makes its results and nothing beside them, and those who follow memory
can count it so.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_watchers: list[Callable[[Any], None]] = []
_running = 0


def compile_nothing(function: Any = None, **_options: object) -> Any:
    """Return a function as it is, but for what `kernel_results` tells of it.

    Call it like `torch.compile`, with a function, or with options alone as a decorator.
    """
    if function is None:
        return compile_nothing

    @wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        import torch

        # With gradients the compiler decides what a kernel keeps for its backward.
        if not _watchers or torch.is_grad_enabled():
            return function(*args, **options)
        with _one_kernel():
            results = function(*args, **options)
        for tell in _watchers if not is_kernel_running() else ():
            tell(results)
        return results

    return run


def is_kernel_running() -> bool:
    """Tell whether an operation is a part of a kernel that makes none of its tensors."""
    return _running > 0


@contextmanager
def kernel_results(tell: Callable[[Any], None]) -> Iterator[None]:
    """Call `tell`, inside, with the results of each function that would be one kernel."""
    _watchers.append(tell)
    try:
        yield
    finally:
        _watchers.remove(tell)


@contextmanager
def _one_kernel() -> Iterator[None]:
    global _running  # noqa: PLW0603 - the functions are decorated once in a process
    _running += 1
    try:
        yield
    finally:
        _running -= 1
