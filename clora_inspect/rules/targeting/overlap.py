"""CL1, targeting: two targets that select the same linear."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from clora.patterns import canonical_mapping
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import Linear, by_module, counted, places
from clora_inspect.rules.reference import Fault
from clora_inspect.rules.target_reading import selected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class OverlappingTargets(Rule):
    """Two targets select the same linear. In clora this is harmless, because targets add up; one of
    them may be needless.

    Megatron-Bridge takes the first target that matches a module and loses what later ones add
    there. For a job that it will train, the finding is an error where anything is lost.

    Bad: `target_modules = ["*.layers.0.*.linear_q", "linear_q"]`
    Good: `target_modules = ["linear_q"]`
    """

    code = "CL103"
    name = "overlapping-targets"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.reference_with(Fault.FIRST_MATCH_WINS):
            yield from self._lost_in_bridge(job)
            return
        chosen = {target: {one.at for one in job.selected(target)} for target in job.targets}
        # Where fc1 is adapted as a whole, the targets for gate and up are meant to select it both.
        whole = {one.at for one in job.linears if len(one.names) > 1}
        for first, second in combinations(chosen, 2):
            both = (chosen[first] & chosen[second]) - whole
            if both:
                # Of two equal targets, blame the later one: `min` returns the first of equals.
                less = min((second, first), key=lambda target: len(chosen[target]))
                adds_nothing = chosen[less] == both
                yield self.found(
                    f'"{first}" and "{second}" both select {counted(len(both), "linear")}'
                    + (f': "{less}" adds nothing' if adds_nothing else ""),
                    fix=f'remove "{less}"' if adds_nothing else None,
                    target=less,
                    location=job.location_of_target(less),
                )

    def _lost_in_bridge(self, job: PlannedJob) -> Iterator[Finding]:
        """Yield a finding for each target from which an earlier one takes linears."""
        lost: dict[str, list[Linear]] = {}
        for module in by_module(job.linears):
            # Targets that select anything in this module, in order, with the pattern that
            # Megatron-Bridge files them under and what they select.
            matching = [
                (_bridge_pattern(target), target, {one.at for one in linears})
                for target in job.targets
                if (linears := selected(target, module))
            ]
            if not matching:
                continue
            first = matching[0][0]
            taken = set().union(*(ats for pattern, _, ats in matching if pattern == first))
            for pattern, target, ats in matching:
                if pattern != first:
                    lost.setdefault(target, []).extend(one for one in module if one.at in ats - taken)
        for target, linears in lost.items():
            if linears:
                yield self.found(
                    f'"{target}" loses {counted(len(linears), "linear")}: Megatron-Bridge takes the first target that '
                    "matches a module, and an earlier one does",
                    severity=Severity.ERROR,
                    details=places(linears),
                    target=target,
                    fix="write targets that do not meet in one module, or train with clora",
                    location=job.location_of_target(target),
                )


def _bridge_pattern(target: str) -> str:
    """Return the pattern of modules that Megatron-Bridge makes of `target`. Targets for parts of
    the same fused linear share one, so that none of them loses to another.
    """
    return next(iter(canonical_mapping([target])))
