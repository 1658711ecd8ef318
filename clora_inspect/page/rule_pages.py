"""The pages of the rules that found something, as the page of a report shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.rules import all_rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.job.finding import Finding


@dataclass(frozen=True, slots=True)
class RulePage:
    """Text of `clora-inspect explain CODE`."""

    code: str
    name: str
    family: str
    severity: str
    paragraphs: tuple[str, ...]


def rule_pages(findings: Iterable[Finding]) -> dict[str, RulePage]:
    """Return code -> page, for the rules of `findings`, by code."""
    found = {finding.code for finding in findings}
    return {
        rule.code: RulePage(
            code=rule.code,
            name=rule.name,
            family=rule.family,
            severity=str(rule.severity),
            paragraphs=tuple(_lines(rule.page())),
        )
        for rule in all_rules()
        if rule.code in found
    }


def _lines(page: str) -> Iterable[str]:
    """Yield the paragraphs of a rule's docstring; each example is one of its own."""
    for paragraph in page.split("\n\n"):
        lines: list[str] = []
        for line in paragraph.splitlines():
            if lines and not line.startswith(("Bad:", "Good:")):
                lines[-1] += f" {line.strip()}"
            else:
                lines.append(line.strip())
        yield from lines
