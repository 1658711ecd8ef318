"""Tell the operations of adapters from those of their bases, forward and backward.

Forward hooks know which module is running. autograd numbers its nodes in the order of the forward,
so the number of the node that is running backward tells which module made it.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch._C._autograd import _get_sequence_nr

from clora.wrappers import Adapted, LoRATopKRouter
from clora_inspect.job.traffic import Owner, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn


Label = TypeVar("Label")


class Owners(Protocol):
    """Knows whose operation is running now, and in which phase."""

    def now(self) -> tuple[Any, Phase]: ...


class Ownership(Generic[Label]):
    """The owner and the phase of the operation that is running. Owners are labels of any kind."""

    def __init__(self, nobody: Label) -> None:
        self._nobody = nobody
        self._running: list[Label] = []
        # The owner of a node is that of the last switch at or before its number.
        self._numbers: list[int] = [-1]
        self._owners: list[Label] = [nobody]

    def enter(self, owner: Label) -> None:
        """Note that operations of `owner` begin, until `leave`."""
        self._running.append(owner)
        self._switch(owner)

    def leave(self) -> None:
        """Note that those of the last `enter` have ended."""
        self._running.pop()
        self._switch(self._running[-1] if self._running else self._nobody)

    def now(self) -> tuple[Label, Phase]:
        """Return the owner and the phase of the operation that is running."""
        node: Any = torch._C._current_autograd_node()  # noqa: SLF001 - there is no public name
        phase = Phase.FORWARD if node is None else Phase.BACKWARD
        if self._running:
            # Also while a forward is recomputed in the backward.
            return self._running[-1], phase
        if node is None:
            return self._nobody, phase
        return self._owners[bisect_right(self._numbers, node._sequence_nr()) - 1], phase  # noqa: SLF001

    def _switch(self, owner: Label) -> None:
        self._numbers.append(_get_sequence_nr())
        self._owners.append(owner)


@contextmanager
def ownership(chunks: Sequence[nn.Module]) -> Iterator[Ownership[Owner]]:
    """Watch the adapters in `chunks`: clora's, and those of Megatron-Bridge."""
    owner = Ownership(Owner.BASE)
    with ExitStack() as stack:
        for module in (module for chunk in chunks for module in chunk.modules()):
            if isinstance(module, LoRATopKRouter):
                _during(stack, owner, module.adapter, "logits", Owner.ADAPTER)
            elif isinstance(module, Adapted):
                # Fused linears do the work of their adapters themselves, so all of their forward is
                # the adapter's, except the base.
                during_forward(stack, owner, module, Owner.ADAPTER)
                _during(stack, owner, module, "_base_forward", Owner.BASE)
            elif (adapter := dict(module.named_children()).get("adapter")) is not None:
                for part in adapter.children() if isinstance(adapter, torch.nn.ModuleDict) else [adapter]:
                    during_forward(stack, owner, part, Owner.ADAPTER)
        yield owner


def during_forward(stack: ExitStack, owner: Ownership[Label], module: nn.Module, whose: Label) -> None:
    """Make operations in the forward of `module`, and in its backward, those of `whose`."""
    stack.callback(module.register_forward_pre_hook(lambda *_: owner.enter(whose)).remove)
    stack.callback(module.register_forward_hook(lambda *_: owner.leave(), always_call=True).remove)


def _during(stack: ExitStack, owner: Ownership[Owner], module: Any, method: str, whose: Owner) -> None:
    """Make operations in a method of `module` those of `whose`."""
    call: Callable[..., Any] = getattr(module, method)

    def watched(*args: Any, **kwargs: Any) -> Any:
        owner.enter(whose)
        try:
            return call(*args, **kwargs)
        finally:
            owner.leave()

    # On this object alone: its class is shared with other models.
    vars(module)[method] = watched
    stack.callback(vars(module).pop, method)
