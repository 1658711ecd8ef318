"""Show each operation that torch runs to whoever counts it: on meta, on the CPU and on a GPU,
forward and backward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Counter(Protocol):
    """Counts some of the operations."""

    def count_of(self, operation: Any) -> Callable[[tuple[Any, ...], Mapping[str, Any], Any], None] | None:
        """Return the function that counts a call of `operation` from its arguments, its keyword
        arguments and its result; None if it does not count.
        """


class counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # noqa: N801 - reads as a function
    """Show the operations that run inside to the counters. It may be entered several times."""

    def __init__(self, *counters: Counter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counters = counters
        # Asked once for each operation: a model of 60 layers calls half a million.
        self._counts: dict[Any, list[Callable[..., None]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        counts = self._counts.get(func)
        if counts is None:
            found = (counter.count_of(func) for counter in self._counters)
            counts = self._counts[func] = [count for count in found if count is not None]
        for count in counts:
            count(args, options, result)
        return result
