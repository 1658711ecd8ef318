"""Names that would be markup, or would hide text, if a page did not escape them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "'><svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% raise %}",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "javascript:alert(1)",
    "a\u202eb\x00\x1b[31m",
)


def renamed(plan: JobPlan, name: str) -> JobPlan:
    """Return `plan` with `name` wherever a plan of somebody else may have any text."""
    first = plan.rank_classes[0]
    placements = (msgspec.structs.replace(first.placements[0], base_class=name, target=name), *first.placements[1:])
    skips = (*first.skipped, msgspec.structs.replace(first.skipped[0], module=f"decoder.{name}", class_name=name))
    ranks = msgspec.structs.replace(first, placements=placements, skipped=skips)
    return msgspec.structs.replace(
        plan,
        model=msgspec.structs.replace(plan.model, name=name, notes=(name,), config={name: name}),
        matches={**plan.matches, name: 0},
        versions={name: name},
        rank_classes=(ranks, *plan.rank_classes[1:]),
    )
