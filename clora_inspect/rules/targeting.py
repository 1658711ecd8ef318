"""CL1, targeting: what the strings of `target_modules` select, and what they do not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.patterns import hf_hint, nearest
from clora.plan import Reason
from clora_inspect.finding import Finding, Severity
from clora_inspect.rules.base import Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.jobplan import JobPlan
    from clora_inspect.rules.subject import Subject


class UnmatchedTarget(Rule):
    """A target selects no module on any rank: training would go on with fewer adapters than asked for.

    An error when you wrote the target, a note when it is one of the default list that this model has nothing for. A Hugging Face name
    is answered with megatron-core's name for the same weight.

    Bad: `target_modules = ["linear_fc1x"]`
    Good: `target_modules = ["linear_fc1_gate", "linear_fc1_up"]`
    """

    code = "CL101"
    name = "unmatched-target"
    family = "targeting"
    severity = Severity.ERROR

    def check(self, subject: Subject) -> Iterator[Finding]:
        """One finding for each target that selects nothing."""
        names = target_names(subject.plan)
        for target in subject.plan.unmatched_targets:
            near = nearest(target, names)
            hint = hf_hint(target)
            yield self.found(
                f'"{target}" matches no module' + (f" ({hint})" if hint else ""),
                severity=Severity.ERROR if subject.targets_written else Severity.INFO,
                fix=f"did you mean: {_counted(near, names)}"
                if near
                else f"targets that this model has: {_counted(names, names)}",
                target=target,
                location=subject.location_of_target(target),
            )


class EmptyPlan(Rule):
    """No module of the whole model gets an adapter: the run would train nothing, and its loss would not move.

    Bad: `target_modules = ["q_proj", "v_proj"]` on a Megatron model, whose modules have other names.
    Good: `target_modules = ["linear_q", "linear_v"]`
    """

    code = "CL107"
    name = "empty-plan"
    family = "targeting"
    severity = Severity.ERROR

    def check(self, subject: Subject) -> Iterator[Finding]:
        """One finding, or none."""
        if subject.adapted:
            return
        names = target_names(subject.plan)
        yield self.found(
            "no module gets an adapter: training would change nothing",
            fix=f"targets that this model has: {_counted(names, names)}"
            if names
            else "the model has no linear that LoRA can adapt",
            location=subject.location_of("lora.target_modules"),
        )


def target_names(plan: JobPlan) -> Counter[str]:
    """Bare targets that would select something, with the number of canonical linears each selects in the whole model."""
    names: Counter[str] = Counter()
    for ranks in plan.rank_classes:
        for placement in ranks.placements:
            names.update(bare_targets(placement.module, placement.part))
        for skip in ranks.skipped:
            if skip.reason in (Reason.NOT_TARGETED, Reason.EXCLUDED):
                names.update(bare_targets(skip.module, skip.part))
    return names


def bare_targets(module: str, part: str | None) -> tuple[str, ...]:
    """The bare targets that select `part` of `module`."""
    last = module.rsplit(".", 1)[-1]
    if last not in FUSED:
        return (last,)
    return (FUSED[last][part],) if part else tuple(FUSED[last].values())


def _counted(chosen: Iterable[str], names: Counter[str]) -> str:
    return ", ".join(f"{name} ({names[name]})" for name in sorted(chosen, key=lambda name: (-names[name], name)))


RULES: tuple[type[Rule], ...] = (UnmatchedTarget, EmptyPlan)


def always_found(subject: Subject) -> Iterator[Finding]:
    """What every plan says of its targets, whoever asks."""
    for rule in (UnmatchedTarget, EmptyPlan):
        yield from rule().check(subject)
