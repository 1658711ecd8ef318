"""Keep arithmetic on meta tensors from importing torch's compiler, `torch._dynamo`.

torch computes the shape of `a + b` on meta in a Python function under the decorator
`torch._compile._disable_dynamo`. On its first call the decorated function imports `torch._dynamo`,
only to tell the compiler not to trace it. This import costs 1.5 s.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME = "torch._dynamo"
_CACHED_RESULT = "__dynamo_disable"
"""The attribute in which `_disable_dynamo` keeps on a function what `torch._dynamo.disable`
returned for it.
"""


class _NoCompiler(ModuleType):
    """Stands in for the module `torch._dynamo` while nothing is compiled."""

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.disabled: list[Any] = []
        # init_process_group calls `torch._dynamo.trace_rules.clear_lru_cache()` whenever
        # "torch._dynamo" is in sys.modules. One object serves as both modules.
        self.trace_rules = self

    def disable(self, function: Callable[..., Any], *_args: object, **_options: object) -> Callable[..., Any]:
        """Return `function` unchanged: without a compiler there is nothing to hide it from."""
        self.disabled.append(function)
        return function

    def clear_lru_cache(self) -> None:
        pass


@contextmanager
def without_dynamo() -> Iterator[None]:
    """Put an empty stand-in in place of `torch._dynamo`, unless the real one is imported already.

    On exit the stand-in is gone, and so is what torch cached on functions because of it: a later
    use of the real compiler hides these functions from itself as usual.
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
            for function in stand_in.disabled:
                vars(function).pop(_CACHED_RESULT, None)
