"""Count floating-point operations while a model runs, with the formulas of torch's
FlopCounterMode.
"""

from __future__ import annotations

from collections import Counter as Sums
from typing import TYPE_CHECKING, Any

from torch.utils.flop_counter import flop_registry, register_flop_formula

from clora_inspect.job.flops import Flops
from clora_inspect.job.traffic import Phase
from clora_inspect.virtual.attention_operation import attention, attention_backward
from clora_inspect.virtual.scan_kernel import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clora_inspect.cost.ownership import Owners


class FlopCount:
    """Sums by owner and phase. Give it to `counting`."""

    def __init__(self, ownership: Owners) -> None:
        self._ownership = ownership
        self.sums: Sums[tuple[Any, Phase]] = Sums()
        """(owner, phase) -> operations."""

    def count_of(self, operation: Any) -> Callable[[tuple[Any, ...], Mapping[str, Any], Any], None] | None:
        formula = flop_registry.get(operation.overloadpacket)
        if formula is None:
            return None

        def count(args: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
            self.sums[self._ownership.now()] += formula(*args, **options, out_val=result)

        return count

    @property
    def flops(self) -> Flops:
        """Return the counts so far, of base and adapters."""
        return Flops(**{f"{owner}_{phase}": number for (owner, phase), number in self.sums.items()})


@register_flop_formula(attention)
def _attention(q_SBHD: Any, k_KBGD: Any, v_KBGE: Any, **_options: Any) -> int:
    """Return the operations of the two products of attention, over all scores."""
    s, b, h, d = q_SBHD
    return int(2 * s * b * h * k_KBGD[0] * (d + v_KBGE[-1]))


@register_flop_formula(attention_backward)
def _attention_backward(_grad: Any, q_SBHD: Any, k_KBGD: Any, v_KBGE: Any, *_saved: Any, **_options: Any) -> int:
    """Return twice as many: each product has two gradients. What a kernel computes again does not
    count.
    """
    return 2 * _attention(q_SBHD, k_KBGD, v_KBGE)


@register_flop_formula(scan)
def _scan(_like: Any, _shape: Any, flops: int, **_options: Any) -> int:
    return flops
