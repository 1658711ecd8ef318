"""Keep arithmetic on meta tensors from importing torch's compiler, `torch._dynamo`.

torch computes the shape of `a + b` on meta in a Python function under the decorator
`torch._compile._disable_dynamo`. On its first call the decorated function imports `torch._dynamo`,
only to tell the compiler not to trace it. This import costs 1.5 s.

Code that asks for anything else of the compiler, as transformers' models do, gets the real one.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

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

    def disable(self, function: Callable[..., Any] | None = None, *_args: object, **_options: object) -> Any:
        """Return `function` unchanged: without a compiler there is nothing to hide it from. Called
        with options alone, it is a decorator, as which transformers uses it.
        """
        if function is None:
            return self.disable
        self.disabled.append(function)
        return function

    def clear_lru_cache(self) -> None:
        pass

    @property
    def __path__(self) -> Any:  # type: ignore[override]
        # Asked for by the import of a submodule.
        return _real().__path__

    def __getattr__(self, name: str) -> Any:
        # Python and torch ask modules for such names, to learn whether they have them.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(), name)


def _real() -> ModuleType:
    """Import the real compiler in place of the stand-in, for good."""
    if isinstance(sys.modules.get(_NAME), _NoCompiler):
        del sys.modules[_NAME]
    return import_module(_NAME)


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
    sys.modules[_NAME] = stand_in
    torch._dynamo = stand_in  # noqa: SLF001
    try:
        yield
    finally:
        if sys.modules.get(_NAME) is stand_in:
            del sys.modules[_NAME], torch._dynamo  # noqa: SLF001
        for function in stand_in.disabled:
            # Methods that are decorated have no attributes of their own.
            getattr(function, "__dict__", {}).pop(_CACHED_RESULT, None)
