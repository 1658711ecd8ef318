"""Say, of a way to split a layer that was not measured, what it costs at least. Pure.

Ranks that split a layer share its costs, or some of them have all of it. So a rank of tp x cp has
at least the whole's part, and what a ring sends grows with its ranks. A test holds this against
measurements of every built-in architecture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clora_inspect.cost.span import Span
from clora_inspect.fit.unit import Cost, Unit

if TYPE_CHECKING:
    from clora_inspect.cost.static import Trained
    from clora_inspect.job.layout import Layout

KEPT = 0.8
"""Part of the activations that is counted on. With more ranks some borders between layers move."""
SAFE = 1 - 1e-9
"""Keeps a bound below the cost that it equals, whatever the rounding."""


_Share = Callable[["Layout"], float]

SHARES: Mapping[str, _Share] = {
    "tp": lambda layout: (1 - 1 / layout.tp) / layout.cp,
    # Attention hands its keys round. Mamba layers exchange their part of the tokens.
    "cp": lambda layout: (1 - 1 / layout.cp) / (layout.tp * layout.cp),
    "ep": lambda layout: (1 - 1 / layout.ep) / (layout.tp * layout.cp),
    # Each rank of etp works on the tokens of all of them.
    "etp": lambda layout: (layout.expert_tp - 1) / (layout.tp * layout.cp),
}
"""Axis -> what the bytes that a rank sends on it are at least proportional to."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least costs of the parts of a model, for one setting of recomputation."""

    whole: Unit
    """Measured on one rank that splits nothing."""
    split: Mapping[str, tuple[Layout, Unit]]
    """Axis -> a layout that has ranks on it alone, and the unit measured there without
    recomputation.
    """
    sends_again: bool
    """Whether all that layers send in the forward is sent once more in the backward."""

    def unit(self, layout: Layout) -> Unit:
        """Return a unit that costs no more than that of `layout` in any part."""
        whole = self.whole
        shares = {axis: SHARES[axis](layout) / SHARES[axis](measured) for axis, (measured, _) in self.split.items()}

        def least(of: Callable[[Unit], Cost], *, is_layer: bool = False) -> Cost:
            sent = {}
            for axis, (_, unit) in self.split.items():
                size = of(unit).sent.get(axis, 0)
                if is_layer and self.sends_again:
                    size += of(unit).sent_forward.get(axis, 0)
                sent[axis] = size * shares[axis] * SAFE
            return _least(of(whole), layout, sent)

        def kind(unit: Unit, number: int) -> Cost:
            # Without recomputation no layer stands for the last one alone.
            return unit.kinds[number if number < len(unit.kinds) else unit.layers[-1]]

        def layer(number: int) -> Cost:
            return least(lambda unit: kind(unit, number), is_layer=True)

        return replace(
            whole,
            kinds=tuple(layer(number) for number in range(len(whole.kinds))),
            embedding=least(lambda unit: unit.embedding),
            output=least(lambda unit: unit.output),
            states=whole.states // (layout.tp * layout.cp),
            released=whole.released // (layout.tp * layout.cp),
            left=0,
            freed=whole.freed // (layout.tp * layout.cp),
            overlap=0,
            copied=whole.copied // layout.tp,
        )


def _least(cost: Cost, layout: Layout, sent: Mapping[str, float]) -> Cost:
    share, experts = layout.tp * layout.cp, layout.ep * layout.expert_tp
    trained: Counter[Trained] = Counter()
    for each, count in cost.trained.items():
        ranks = experts if each.is_expert else layout.tp
        trained[replace(each, elements=each.elements // ranks)] += count
    return Cost(
        weights=cost.weights // layout.tp,
        expert_weights=cost.expert_weights // experts,
        trained=trained,
        forward=_shared(cost.forward, share),
        backward=_shared(cost.backward, share),
        operations=int(cost.operations * SAFE / share),
        sent={axis: int(size) for axis, size in sent.items()},
    )


def _shared(span: Span, share: int) -> Span:
    return Span(int(span.net * KEPT / share), int(span.peak * KEPT / share))
