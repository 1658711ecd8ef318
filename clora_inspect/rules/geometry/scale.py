"""CL2, geometry: the scale alpha / rank, and what `normalize_moe_lora` does to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from clora.canonical_lora import LARGEST_ALPHA
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.base import Rule, RuleSettings
from clora_inspect.rules.linears import Linear, counted, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class ScaleSettings(RuleSettings, frozen=True, kw_only=True):
    smallest: Annotated[float, Meta(ge=0, le=LARGEST_ALPHA)] = 0.1
    """Smallest alpha / dim that is usual."""
    largest: Annotated[float, Meta(gt=0, le=LARGEST_ALPHA)] = 8.0
    """Largest alpha / dim that is usual."""


class UnusualScale(Rule):
    """alpha / dim, the factor on the adapter's output, is far from the usual quarter to four.

    Often one of the two was changed and the other forgotten. A large scale needs a smaller learning
    rate.

    Bad: `dim = 4`, `alpha = 128`
    Good: `dim = 16`, `alpha = 32`
    """

    code = "CL207"
    name = "unusual-scale"
    severity = Severity.WARNING
    settings = ScaleSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        settings = self.settings_for(job, ScaleSettings)
        dim, alpha = job.lora.dim, job.lora.alpha
        if job.adapted and not settings.smallest <= alpha / dim <= settings.largest:
            yield self.found(
                f"alpha / dim = {alpha:g} / {dim} = {alpha / dim:.3g}, outside {settings.smallest:g} to "
                f"{settings.largest:g}",
                fix=f"usual for dim = {dim}: alpha = {dim} or {2 * dim}",
                location=job.location_of("lora.alpha"),
            )


class ExpertScale(Rule):
    """`normalize_moe_lora` makes the scale of routed experts topk times as large as elsewhere.

    It divides their rank by the router's topk and keeps alpha. A learning rate that suits the
    attention is then too large for the experts.

    Bad: `normalize_moe_lora = true` with `dim = 32`, `alpha = 32`, topk 8: scale 1 in the
    attention, 8 in the experts.
    Good: `normalize_moe_lora = false`, or an alpha chosen for the experts.
    """

    code = "CL208"
    name = "expert-scale"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        scales: dict[float, list[Linear]] = {}
        for linear, placement in job.placements:
            scales.setdefault(placement.scale, []).append(linear)
        if len(scales) > 1:
            low, high = min(scales), max(scales)
            yield self.found(
                f"the scale alpha / rank is {high:g} at {counted(len(scales[high]), 'adapter')} and {low:g} at the "
                f"others: {high / low:g} times",
                fix="set normalize_moe_lora = false, or choose alpha for the experts",
                details=[
                    f"scale {scale:g}  {place}"
                    for scale in sorted(scales, reverse=True)
                    for place in places(scales[scale])
                ],
                location=job.location_of("lora.normalize_moe_lora"),
            )


class DilutedExperts(Rule):
    """`normalize_moe_lora` shrinks the rank of experts that share one pair.

    The smaller rank dim // topk makes sense where every expert has a pair of its own: a token then
    passes topk pairs, with dim ranks in all. It passes a shared pair only once, and the experts
    learn far less than asked for.

    Bad: `normalize_moe_lora = true` with `share_expert_adapters = true`
    Good: `share_expert_adapters = false` beside it, or neither.
    """

    code = "CL212"
    name = "diluted-experts"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        shared = [linear for linear in job.with_shared_pair() if linear.place is Place.EXPERTS]
        if job.lora.normalize_moe_lora and shared:
            rank = shared[0].placement.dim if shared[0].placement else 0
            yield self.found(
                f"normalize_moe_lora gives the experts rank {rank}, and all experts share that one pair",
                fix="set share_expert_adapters = false, or normalize_moe_lora = false",
                details=places(shared),
                location=job.location_of("lora.normalize_moe_lora"),
            )
