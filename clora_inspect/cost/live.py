"""Follow the storages that are alive while a model runs, and find the moment with the most bytes.

Storages live as long as on a GPU, because the same code holds and drops them. Each takes whole
blocks, as in torch's CUDA allocator.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clora_inspect.cost.discarded import resizes
from clora_inspect.cost.span import Span
from clora_inspect.virtual.compiled import is_kernel_running, kernel_results

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BLOCK = 512
"""Bytes. torch's CUDA allocator gives out multiples of it (`kMinBlockSize`)."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that operations made while it was entered."""

    def __init__(self, known: Iterable[torch.Tensor] = (), *, compiled: bool = True) -> None:
        """Begin with no bytes.

        Args:
            known: tensors whose storages count nothing: parameters, their gradients, buffers.
            compiled: whether functions that megatron-core compiles make their results alone.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._compiled = compiled
        self._entered = ExitStack()
        # Bytes that a storage adds, or, negative, that are free again.
        self._changes: list[int] = []
        # Address of a storage -> the moment when it was made, and its bytes.
        self._alive: dict[int, tuple[int, int]] = {}
        for tensor in known:
            self._note(tensor.untyped_storage(), 0)

    @property
    def moment(self) -> int:
        """The present moment, for `span` and `made_since`."""
        return len(self._changes)

    def span(self, start: int, end: int) -> Span:
        """Return how the bytes changed between two moments."""
        sums = list(accumulate(self._changes[start:end], initial=0))
        return Span(sums[-1], max(sums))

    def spans(self, moments: Sequence[int]) -> tuple[Span, ...]:
        """Return the spans between each moment and the next."""
        return tuple(self.span(start, end) for start, end in pairwise(moments))

    def made_since(self, moment: int) -> frozenset[int]:
        """Return the addresses of the storages that were made since a moment and are alive now."""
        return frozenset(key for key, (made, _) in self._alive.items() if made >= moment)

    def take_out(self, storages: Iterable[int]) -> int:
        """Count storages that are alive as if they had never been made. Return their bytes."""
        total = 0
        for key in storages:
            made, size = self._alive[key]
            total += size
            self._changes[made] = 0
            self._alive[key] = made, 0
        return total

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor that was made elsewhere."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._alive:  # noqa: SLF001 - meta tensors have no other address
            self._note(storage, _blocks(storage))

    def __enter__(self) -> Self:
        self._entered.enter_context(resizes(self._resized))
        if self._compiled:
            self._entered.enter_context(kernel_results(self._add_all))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._entered.close()

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` and count the storages of its results."""
        answer = func(*args, **(kwargs or {}))
        if not (self._compiled and is_kernel_running()):
            self._add_all(answer)
        return answer

    def _add_all(self, results: Any) -> None:
        for each in tree_leaves(results):
            if isinstance(each, torch.Tensor) and each.device.type == "meta":
                self.add(each)

    def _note(self, storage: Any, size: int) -> None:
        key = storage._cdata  # noqa: SLF001
        self._alive[key] = self.moment, size
        self._changes.append(size)
        # torch keeps the Python object of a storage as long as the storage lives.
        weakref.finalize(storage, self._drop, key).atexit = False

    def _resized(self, storage: Any) -> None:
        if storage._cdata in self._alive:  # noqa: SLF001
            # It is free, and another one stands in its place.
            _, size = self._alive[storage._cdata]  # noqa: SLF001
            self._changes.append(-size)
            self._alive[storage._cdata] = self.moment, _blocks(storage)  # noqa: SLF001
            self._changes.append(_blocks(storage))

    def _drop(self, key: int) -> None:
        _, size = self._alive.pop(key, (0, 0))
        self._changes.append(-size)


def _blocks(storage: torch.UntypedStorage) -> int:
    return -(-storage.nbytes() // BLOCK) * BLOCK
