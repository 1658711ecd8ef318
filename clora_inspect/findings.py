"""What a plan shows that a person should look at: targets that select nothing, and a plan that trains nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.patterns import hf_hint, nearest
from clora.plan import Reason
from clora_inspect.finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from clora.plan import Plan


def find(plans: Sequence[Plan], unmatched: Iterable[str], *, targets_written: bool) -> Iterator[Finding]:
    """The findings of one job. A target of the default list that selects nothing is worth a note, one the user wrote is an error."""
    names = target_names(plans)
    for target in unmatched:
        yield _unmatched_target(target, names, written=targets_written)
    if not any(plan.placements for plan in plans):
        yield Finding(
            code="CL107",
            name="empty-plan",
            severity=Severity.ERROR,
            message="no module gets an adapter: training would change nothing",
            help=f"targets that this model has: {_counted(names, names)}"
            if names
            else "the model has no linear that LoRA can adapt",
        )


def target_names(plans: Iterable[Plan]) -> Counter[str]:
    """Bare targets that would select something, with the number of canonical linears each selects in the whole model."""
    names: Counter[str] = Counter()
    for plan in plans:
        for placement in plan.placements:
            names.update(_bare_targets(placement.module, placement.part))
        for skip in plan.skipped:
            if skip.reason in (Reason.NOT_TARGETED, Reason.EXCLUDED):
                names.update(_bare_targets(skip.module, skip.part))
    return names


def _bare_targets(module: str, part: str | None) -> tuple[str, ...]:
    last = module.rsplit(".", 1)[-1]
    if last not in FUSED:
        return (last,)
    return (FUSED[last][part],) if part else tuple(FUSED[last].values())


def _unmatched_target(target: str, names: Counter[str], *, written: bool) -> Finding:
    near = nearest(target, names)
    hint = hf_hint(target)
    return Finding(
        code="CL101",
        name="unmatched-target",
        severity=Severity.ERROR if written else Severity.INFO,
        message=f'"{target}" matches no module' + (f" ({hint})" if hint else ""),
        help=f"did you mean: {_counted(near, names)}"
        if near
        else f"targets that this model has: {_counted(names, names)}",
    )


def _counted(chosen: Iterable[str], names: Counter[str]) -> str:
    return ", ".join(f"{name} ({names[name]})" for name in sorted(chosen, key=lambda name: (-names[name], name)))
