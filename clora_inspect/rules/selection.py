"""Which rules run, and what fails: codes (`CL101`), prefixes (`CL1`) and names (`unmatched-target`). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from clora_inspect.finding import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the user selected."""

    select: tuple[str, ...] = ("CL",)
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    fail_on: Severity = Severity.ERROR

    def has(self, code: str, name: str) -> bool:
        """Whether the rule `code` runs. The longest word that names it decides; where two are as long, ignoring wins."""
        wanted = max((_length(word, code, name) for word in (*self.select, *self.extend_select)), default=0)
        unwanted = max((_length(word, code, name) for word in self.ignore), default=0)
        return wanted > unwanted


def _length(word: str, code: str, name: str) -> int:
    """How exactly `word` names the rule; 0 when it does not."""
    if word in (code, name):
        return len(code)
    return len(word) if code.startswith(word.upper()) else 0
