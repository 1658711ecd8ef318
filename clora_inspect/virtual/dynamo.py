"""Keep torch's compiler from being imported by meta tensors."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME = "torch._dynamo"
_MARK = "__dynamo_disable"
"""Where torch remembers, on a function, that it has told the compiler to leave it alone."""


class _NoCompiler(ModuleType):
    """Stands in for `torch._dynamo` while nothing is compiled."""

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.told: list[Any] = []
        self.trace_rules = self

    def disable(self, function: Callable[..., Any], *_args: object, **_options: object) -> Callable[..., Any]:
        """Leave `function` as it is: there is no compiler that it must be hidden from."""
        self.told.append(function)
        return function

    def clear_lru_cache(self) -> None:
        """`trace_rules.clear_lru_cache`, which torch.distributed calls when the compiler is loaded:
        no cache.
        """


@contextmanager
def without_dynamo() -> Iterator[None]:
    """Do arithmetic on meta tensors without importing `torch._dynamo`, unless it is there already.

    torch computes the shapes of `a + b` in Python, in a function that first tells the compiler to
    leave it alone, and for that imports the compiler: 1.5 s for a rotary embedding's frequencies.
    On exit torch has forgotten that it told anyone.
    """
    if _NAME in sys.modules:
        yield
        return
    import torch

    stand_in = _NoCompiler()
    with ExitStack() as stack:
        sys.modules[_NAME] = stand_in
        stack.callback(sys.modules.pop, _NAME)
        stack.enter_context(replaced(torch, {"_dynamo": stand_in}))
        try:
            yield
        finally:
            for function in stand_in.told:
                vars(function).pop(_MARK, None)
