"""Count floating-point operations while a model runs, with the formulas of torch's
FlopCounterMode.
"""

from __future__ import annotations

from collections import Counter as Sums
from typing import TYPE_CHECKING, Any

from torch.utils.flop_counter import flop_registry

from clora_inspect.job.flops import Flops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clora_inspect.cost.ownership import Ownership


class FlopCount:
    """Sums by owner and phase. Give it to `counting`."""

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._sums: Sums[str] = Sums()

    def count_of(self, operation: Any) -> Callable[[tuple[Any, ...], Mapping[str, Any], Any], None] | None:
        formula = flop_registry.get(operation.overloadpacket)
        if formula is None:
            return None

        def count(args: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
            owner, phase = self._ownership.now()
            self._sums[f"{owner}_{phase}"] += formula(*args, **options, out_val=result)

        return count

    @property
    def flops(self) -> Flops:
        """What was counted so far."""
        return Flops(**self._sums)
