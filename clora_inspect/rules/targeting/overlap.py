"""CL1, targeting: two targets that select the same linear."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from clora.patterns import PatternSet, canonical_mapping
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import Linear, by_module, counted, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


MOST_PAIRS = 100
"""Pairs of targets that are reported one by one."""


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
        targets = {target: number for number, target in enumerate(job.targets)}
        pairs = [
            pair for pair in job.selections.overlaps(most=MOST_PAIRS + 1) if pair[0] in targets and pair[1] in targets
        ]
        chosen = {
            target: {one.at for one in job.selected(target)} for target in dict.fromkeys(chain.from_iterable(pairs))
        }
        # Where fc1 is adapted as a whole, the targets for gate and up are meant to select it both.
        whole = {one.at for one in job.linears if len(one.names) > 1}
        for first, second in sorted(pairs[:MOST_PAIRS], key=lambda pair: (targets[pair[0]], targets[pair[1]])):
            both = (chosen[first] & chosen[second]) - whole
            if both:
                # Blame the later one of two equal targets: `min` returns the first of equals.
                less = min((second, first), key=lambda target: len(chosen[target]))
                adds_nothing = chosen[less] == both
                yield self.found(
                    f'"{first}" and "{second}" both select {counted(len(both), "linear")}'
                    + (f': "{less}" adds nothing' if adds_nothing else ""),
                    fix=f'remove "{less}"' if adds_nothing else None,
                    target=less,
                    location=job.location_of_target(less),
                )
        if len(pairs) > MOST_PAIRS:
            yield self.found(
                f"more than {MOST_PAIRS} pairs of targets select the same linears; these are the first",
                fix="write targets that do not meet",
                location=job.location_of("lora.target_modules"),
            )

    def _lost_in_bridge(self, job: PlannedJob) -> Iterator[Finding]:
        """Yield a finding for each target from which an earlier one takes linears."""
        lost: dict[str, list[Linear]] = {}
        patterns = PatternSet(job.targets)
        for module in by_module(job.linears):
            # Targets that select anything in this module, in order, with the pattern that
            # Megatron-Bridge files them under and what they select.
            meeting = patterns.matching(*dict.fromkeys(name for one in module for name in one.names))
            # With one target there is nothing to lose, and of thousands the first ones tell it.
            if len(meeting) < 2:
                continue
            found = [(one.at, frozenset(patterns.matching(*one.names))) for one in module]
            matching = [
                (_bridge_pattern(target), target, {at for at, targets in found if target in targets})
                for target in meeting[:MOST_PAIRS]
            ]
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
