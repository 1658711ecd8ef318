"""Tell the operations of adapters from those of their bases, forward and backward.

Forward hooks know which module is running. autograd numbers its nodes in the order of the forward,
so the number of the node that is running backward tells which module made it.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch._C._autograd import _get_sequence_nr

from clora.wrappers import Adapted, LoRATopKRouter
from clora_inspect.job.traffic import Owner, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn


class Ownership:
    """Whose operation is running now, and in which phase."""

    def __init__(self) -> None:
        self._running: list[Owner] = []
        # The owner of a node is that of the last switch at or before its number.
        self._numbers: list[int] = [-1]
        self._owners: list[Owner] = [Owner.BASE]

    def enter(self, owner: Owner) -> None:
        """Note that operations of `owner` begin, until `leave`."""
        self._running.append(owner)
        self._switch(owner)

    def leave(self) -> None:
        """Note that those of the last `enter` have ended."""
        self._running.pop()
        self._switch(self._running[-1] if self._running else Owner.BASE)

    def now(self) -> tuple[Owner, Phase]:
        """Return the owner and the phase of the operation that is running."""
        node: Any = torch._C._current_autograd_node()  # noqa: SLF001 - there is no public name
        phase = Phase.FORWARD if node is None else Phase.BACKWARD
        if self._running:
            # Also while a forward is recomputed in the backward.
            return self._running[-1], phase
        if node is None:
            return Owner.BASE, phase
        return self._owners[bisect_right(self._numbers, node._sequence_nr()) - 1], phase  # noqa: SLF001

    def _switch(self, owner: Owner) -> None:
        self._numbers.append(_get_sequence_nr())
        self._owners.append(owner)


@contextmanager
def ownership(chunks: Sequence[nn.Module]) -> Iterator[Ownership]:
    """Watch the adapters in `chunks`: clora's, and those of Megatron-Bridge."""
    owner = Ownership()
    with ExitStack() as stack:
        for module in (module for chunk in chunks for module in chunk.modules()):
            if isinstance(module, LoRATopKRouter):
                _during(stack, owner, module.adapter, "logits", Owner.ADAPTER)
            elif isinstance(module, Adapted):
                # Fused linears do the work of their adapters themselves, so all of their forward is
                # the adapter's, except the base.
                _during_forward(stack, owner, module)
                _during(stack, owner, module, "_base_forward", Owner.BASE)
            elif (adapter := dict(module.named_children()).get("adapter")) is not None:
                for part in adapter.children() if isinstance(adapter, torch.nn.ModuleDict) else [adapter]:
                    _during_forward(stack, owner, part)
        yield owner


def _during_forward(stack: ExitStack, owner: Ownership, module: nn.Module) -> None:
    """Make operations in the forward of `module` those of adapters."""
    stack.callback(module.register_forward_pre_hook(lambda *_: owner.enter(Owner.ADAPTER)).remove)
    stack.callback(module.register_forward_hook(lambda *_: owner.leave(), always_call=True).remove)


def _during(stack: ExitStack, owner: Ownership, module: Any, method: str, whose: Owner) -> None:
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
