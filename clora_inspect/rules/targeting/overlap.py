"""CL1, targeting: two targets that select the same linear."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import Linear, by_module, counted, places
from clora_inspect.rules.reference import Fault
from clora_inspect.rules.target_reading import (
    selected,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class OverlappingTargets(Rule):
    """Two targets select the same linear. The selection is their union, so this is at most one
    string too many.

    Megatron-Bridge takes the first target that matches a module and loses what the others add
    there: for a job that it will train, this is an error where something is lost.

    Bad: `target_modules = ["*.layers.0.*.linear_q", "linear_q"]`
    Good: `target_modules = ["linear_q"]`
    """

    code = "CL103"
    name = "overlapping-targets"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each pair that overlaps; for the reference one for each target that
        loses.
        """
        if job.reference and Fault.FIRST_MATCH_WINS in job.reference.faults:
            yield from self._lost(job)
            return
        chosen = {target: {one.at for one in job.selected(target)} for target in job.targets}
        for first, second in combinations(chosen, 2):
            both = chosen[first] & chosen[second]
            # Gate and up of an fc1 that is adapted as a whole are named by two targets, as they
            # should be.
            both -= {one.at for one in job.linears if len(one.names) > 1}
            if both:
                less = min((second, first), key=lambda target: len(chosen[target]))
                adds = " and adds nothing" if chosen[less] == both else ""
                yield self.found(
                    f'"{first}" and "{second}" both select {counted(len(both), "linear")}'
                    + (f': "{less}"{adds}' if adds else ""),
                    fix=f'remove "{less}"' if adds else None,
                    target=less,
                    location=job.location_of_target(less),
                )

    def _lost(self, job: PlannedJob) -> Iterator[Finding]:
        """Linears whose module an earlier target took without them."""
        lost: dict[str, list[Linear]] = {}
        for module in by_module(job.linears):
            matching = [
                (_module_pattern(target), target, {one.at for one in selected(target, module)})
                for target in job.targets
            ]
            matching = [entry for entry in matching if entry[2]]
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
                    f'"{target}" loses {counted(len(linears), "linear")}: Megatron-Bridge takes the first target that matches a module, '
                    "and an earlier one does",
                    severity=Severity.ERROR,
                    details=places(linears),
                    target=target,
                    fix="write targets that do not meet in one module, or train with clora",
                    location=job.location_of_target(target),
                )


def _module_pattern(target: str) -> str:
    """What Megatron-Bridge keeps a target under: canonical targets of one fused linear share a
    pattern.
    """
    from clora.patterns import canonical_mapping

    return next(iter(canonical_mapping([target])))
