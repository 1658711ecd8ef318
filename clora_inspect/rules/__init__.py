"""The rules: `all_rules()` is the table of them, `run_rules()` runs those that look at a plan.
Neither torch nor megatron-core is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_inspect.job.finding import Finding
    from clora_inspect.rules.base import Rule
    from clora_inspect.rules.planned_job import PlannedJob
    from clora_inspect.rules.selection import Selection

MODULES = (
    "targeting",
    "geometry",
    "parallel_layout",
    "surgery",
    "numerics",
    "export",
    "drift",
    "environment",
    "configuration",
)
"""Files beside this one that have a table `RULES`."""


def all_rules() -> tuple[type[Rule], ...]:
    """Every rule, by code."""
    rules: list[type[Rule]] = [rule for name in MODULES for rule in import_module(f"clora_inspect.rules.{name}").RULES]
    return tuple(sorted(rules, key=lambda rule: rule.code))


def run_rules(job: PlannedJob, selection: Selection | None = None) -> list[Finding]:
    """What the selected rules (all, when no selection is given) find in `job`: by code, then in
    model order.

    Raises:
        UnknownRuleError: the selection names a rule that there is not.
        RuleSettingsError: the settings of a rule are not what it has.
    """
    rules = all_rules()
    running = selection.codes(rules) if selection else frozenset(rule.code for rule in rules)
    return [
        finding
        for rule in rules
        if rule.code in running and (job.reference or not rule.reference_only)
        for finding in rule().check(job)
    ]
