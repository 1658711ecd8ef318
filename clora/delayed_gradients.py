"""Keep the delayed weight gradients of a frozen base from failing.

With `delay_wgrad_compute`, megatron-core calls `backward_dw` of every linear after the backward.
Transformer Engine puts a gradient aside only where the weight wants one, and its `backward_dw`
raises `Pop empty queue` where nothing was put aside. So the first backward of a model with a frozen
base would fail at the first linear without an adapter. (An adapted one has a `backward_dw` of its
own, in `clora.wrappers`.)

Here such a linear gets one that first looks whether its weight wants a gradient.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from clora import linears

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from clora.wrappers import Adapted


def skip_missing_gradients(model: nn.Module, adapted: Iterable[Adapted]) -> list[nn.Module]:
    """Let the frozen linears of `model` that have no adapter compute no delayed gradients.

    A weight that is made trainable later has its gradient computed.

    Args:
        model: one chunk of an adapted model.
        adapted: its adapted modules.

    Returns:
        The linears that were changed; `restore_delayed_gradients` takes them.
    """
    skipped = {id(module) for module in adapted}
    changed = [
        module for module in model.modules() if id(module) not in skipped and linears.delays_weight_gradients(module)
    ]
    for module in changed:
        foreign: Any = module
        foreign.backward_dw = partial(compute_delayed_gradients, module, type(module))
    return changed


def restore_delayed_gradients(modules: Iterable[nn.Module]) -> None:
    """Undo `skip_missing_gradients`."""
    for module in modules:
        del module.__dict__["backward_dw"]


def compute_delayed_gradients(module: nn.Module, cls: Any) -> None:
    """Call the `backward_dw` that `cls` gives `module`, if its weight wants a gradient."""
    if linears.wants_weight_gradient(module):
        cls.backward_dw(module)
