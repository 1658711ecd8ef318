"""The rules: one file per family, one class per rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_inspect.finding import Finding
    from clora_inspect.rules.base import Rule
    from clora_inspect.rules.selection import Selection
    from clora_inspect.rules.subject import Subject


def all_rules() -> tuple[type[Rule], ...]:
    """Every rule, by code."""
    from clora_inspect.rules import configuration, drift

    return (*drift.RULES, *configuration.RULES)


def run_rules(subject: Subject, selection: Selection) -> list[Finding]:
    """What the selected rules find in one planned job."""
    return [finding for finding in subject.plan.findings if selection.has(finding.code, finding.name)]
