"""Follow the storages that are alive while a model runs, and find the moment with the most bytes.

Storages live as long as on a GPU, because the same code holds and drops them. Each takes whole
blocks, as in torch's CUDA allocator.
"""

from __future__ import annotations

import weakref
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clora_inspect.cost.span import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BLOCK = 512
"""Bytes. torch's CUDA allocator gives out multiples of it (`kMinBlockSize`)."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that operations made while it was entered.

    Memory that is still alive in the end (`left`) stays for all later micro-batches: buffers that
    megatron-core and Transformer Engine hold on to. It is taken out of all other answers.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        """Count nothing for the storages of `known`: parameters, their gradients, buffers."""
        super().__init__()  # type: ignore[no-untyped-call]
        # Number of a storage and the bytes that it adds, or, negative, that are free again.
        self._events: list[tuple[int, int]] = []
        self._alive: dict[int, tuple[int, int]] = {}
        self._numbers = count()
        for tensor in known:
            self._note(tensor.untyped_storage(), 0)

    @property
    def moment(self) -> int:
        """The present moment, for `at`, `peak` and `span`."""
        return len(self._events)

    @property
    def left(self) -> int:
        """Bytes that are alive now."""
        return sum(size for _, size in self._alive.values())

    def at(self, moment: int) -> int:
        """Return the bytes that were alive at a moment, without what is left now."""
        return self.span(0, moment).net

    def peak(self, start: int, end: int) -> int:
        """Return the most bytes between two moments, without what is left now."""
        return self.at(start) + self.span(start, end).peak

    def span(self, start: int, end: int) -> Span:
        """Return how the bytes changed between two moments, without what is left now."""
        left = {number for number, _ in self._alive.values()}
        steps = (0 if number in left else delta for number, delta in self._events[start:end])
        changes = list(accumulate(steps, initial=0))
        return Span(changes[-1], max(changes))

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor that was made elsewhere."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._alive:  # noqa: SLF001 - meta tensors have no other address
            self._note(storage, -(-storage.nbytes() // BLOCK) * BLOCK)

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` and count the storages of its results."""
        answer = func(*args, **(kwargs or {}))
        for each in tree_leaves(answer):
            if isinstance(each, torch.Tensor) and each.device.type == "meta":
                self.add(each)
        return answer

    def _note(self, storage: Any, size: int) -> None:
        key, number = storage._cdata, next(self._numbers)  # noqa: SLF001
        self._alive[key] = number, size
        self._events.append((number, size))
        # torch keeps the Python object of a storage as long as the storage lives.
        weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        number, size = self._alive.pop(key, (-1, 0))
        self._events.append((number, -size))
