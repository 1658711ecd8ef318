"""Show in one line what a rank sends and needs with the adapters of another implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import size
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.traffic import Owner, sent

if TYPE_CHECKING:
    from clora_inspect.formats.glyphs import Glyphs
    from clora_inspect.job.plan import JobPlan


def beside_line(plan: JobPlan, other: JobPlan, glyphs: Glyphs) -> str:
    """Return the largest numbers of a rank in `other`, each with that of `plan` after it."""
    pairs = (
        ("sent for a micro-batch", _sent(other), _sent(plan)),
        ("of it by adapters", _sent(other, Owner.ADAPTER), _sent(plan, Owner.ADAPTER)),
        ("at the peak", _peak(other), _peak(plan)),
    )
    return f" {glyphs.dot} ".join(f"{size(theirs)} {what} (clora: {size(ours)})" for what, theirs, ours in pairs)


def _sent(plan: JobPlan, owner: Owner | None = None) -> int:
    return max(sent(ranks.traffic, owner=owner) for ranks in plan.rank_classes if isinstance(ranks.traffic, tuple))


def _peak(plan: JobPlan) -> int:
    return max(ranks.memory.peak_bytes for ranks in plan.rank_classes if isinstance(ranks.memory, RankMemory))
