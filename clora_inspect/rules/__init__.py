"""The rules of a check. `all_rules()` returns every rule, `run_rules()` runs those that look at a
plan.

A rule is one class with a `code` in any module of this package: nothing else lists it. Importing
a rule must not import torch or megatron-core, so that `clora-inspect explain` starts at once and a
check of cached plans needs neither.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from itertools import islice
from pkgutil import walk_packages
from typing import TYPE_CHECKING

from clora_inspect.rules.base import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.job.finding import Finding
    from clora_inspect.rules.planned_job import PlannedJob
    from clora_inspect.rules.selection import Selection


MOST_FINDINGS = 200
"""Findings of one rule about one job. More of them tell nothing new."""


@cache
def all_rules() -> tuple[type[Rule], ...]:
    """Import every module of this package and return its rules, sorted by code."""
    # A class exists only once its module is imported, and `__subclasses__` finds it only then.
    for module in walk_packages(__path__, f"{__name__}."):
        import_module(module.name)
    return tuple(sorted(_subclasses_with_a_code(Rule), key=lambda rule: rule.code))


def run_rules(job: PlannedJob, selection: Selection | None = None) -> list[Finding]:
    """Run the selected rules on `job` and return their findings, by code and then in model order.

    Args:
        job: a plan, and what the user intends with it.
        selection: the rules to run; None for all.

    Raises:
        UnknownRuleError: the selection names a rule that does not exist.
        RuleSettingsError: `[rules.CODE]` has a key or a value that the rule does not have.
    """
    rules = all_rules()
    running = selection.codes(rules) if selection else frozenset(rule.code for rule in rules)
    return [
        finding
        for rule in rules
        if rule.code in running and (job.reference or not rule.reference_only)
        for finding in _first(rule, rule().check(job))
    ]


def training_findings(job: PlannedJob) -> list[Finding]:
    """Return what the rules have against training the base model at all."""
    return [finding for rule in all_rules() if rule.stops_training for finding in rule().check(job)]


def _first(rule: type[Rule], findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the first findings of a rule, and one more that says so if there are others."""
    yield from islice(findings, MOST_FINDINGS)
    for other in islice(findings, 1):
        yield rule.found(
            f"there are more than {MOST_FINDINGS} findings of this rule; these are the first", severity=other.severity
        )


def _subclasses_with_a_code(base: type[Rule]) -> Iterator[type[Rule]]:
    """Yield the rules below `base`; classes without a code only hold what some rules share."""
    for rule in base.__subclasses__():
        # Rules that tests define for themselves are not part of the product.
        if "code" in vars(rule) and rule.__module__.startswith(f"{__name__}."):
            yield rule
        yield from _subclasses_with_a_code(rule)
