"""Count the bytes that autograd keeps for the backward, by the module that keeps them.

Tensors that share a storage count once. Storages of parameters and buffers count nothing: they are
there anyway.
"""

from __future__ import annotations

import weakref
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.cost.discarded import resizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from torch import nn


class KeptBytes:
    """What was kept so far."""

    def __init__(self) -> None:
        self.by_module: Counter[str] = Counter()
        """Path of a module -> bytes that were kept first while it ran, and none inside of it."""
        self.alive: dict[int, tuple[str, int]] = {}
        """Address of a storage that has not been freed -> the path of its module, and its bytes."""

    @property
    def total(self) -> int:
        """Bytes of all distinct storages."""
        return self.by_module.total()

    def of(self, storages: AbstractSet[int]) -> Counter[str]:
        """Return the bytes of some storages, by module; none for those that are freed."""
        sums: Counter[str] = Counter()
        for storage in storages & self.alive.keys():
            path, size = self.alive[storage]
            sums[path] += size
        return sums

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Count the new size of a storage, if it is kept."""
        key: int = storage._cdata  # noqa: SLF001
        if key in self.alive:
            path, before = self.alive[key]
            self.alive[key] = path, storage.nbytes()
            self.by_module[path] += storage.nbytes() - before


@contextmanager
def kept_bytes(chunks: Sequence[nn.Module]) -> Iterator[KeptBytes]:
    """Count what is kept by forwards of `chunks` inside."""
    kept = KeptBytes()
    running: list[str] = [""]
    own = {_storage(tensor) for chunk in chunks for tensor in (*chunk.parameters(), *chunk.buffers())}
    is_over = False

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = _storage(tensor)
        if storage not in own:
            own.add(storage)
            size, path = tensor.untyped_storage().nbytes(), running[-1]
            kept.by_module[path] += size
            kept.alive[storage] = path, size
            weakref.finalize(tensor.untyped_storage(), drop, storage).atexit = False
        return tensor

    def drop(storage: int) -> None:
        path, size = kept.alive.pop(storage)
        # A graph that is gone before the end keeps nothing, and another storage may get its
        # address.
        if not is_over:
            own.discard(storage)
            kept.by_module[path] -= size

    def enter(path: str) -> Any:
        return lambda *_: running.append(path)

    def leave(*_: object) -> None:
        running.pop()

    with ExitStack() as stack:
        for chunk in chunks:
            for path, module in chunk.named_modules():
                stack.callback(module.register_forward_pre_hook(enter(path)).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        stack.enter_context(resizes(kept.resized))
        yield kept
    is_over = True


def _storage(tensor: torch.Tensor) -> int:
    # Meta tensors have no other address.
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001
