"""`Selection`: which rules run, and how severe a finding must be to fail the check. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from clora.errors import CloraError
from clora_inspect.job.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clora_inspect.rules.base import Rule


class UnknownRuleError(CloraError):
    """A selector is neither a rule's code or name, nor the beginning of a code."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Selectors that choose rules: codes (`CL101`), prefixes of codes (`CL1`) or names
    (`unmatched-target`).

    Of two selectors that contradict each other the more exact one wins, and `ignore` wins over an
    equally exact one. So `select = ["CL1"]` with `ignore = ["CL105"]` runs all of CL1 but CL105,
    and `extend_select = ["CL105"]` with `ignore = ["CL1"]` runs CL105 alone of its family.
    """

    # All codes begin with "CL", so that every rule runs by default.
    select: tuple[str, ...] = ("CL",)
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    fail_on: Severity = Severity.ERROR

    def codes(self, rules: Sequence[type[Rule]]) -> frozenset[str]:
        """Return the codes of the rules that run.

        Raises:
            UnknownRuleError: a selector names no rule.
        """
        chosen = [resolved(selector, rules) for selector in (*self.select, *self.extend_select)]
        ignored = [resolved(selector, rules) for selector in self.ignore]
        running = set()
        for rule in rules:
            # The fewer rules a selector names, the more exact it is.
            wanted = min((len(codes) for codes in chosen if rule.code in codes), default=None)
            unwanted = min((len(codes) for codes in ignored if rule.code in codes), default=None)
            if wanted is not None and (unwanted is None or wanted < unwanted):
                running.add(rule.code)
        return frozenset(running)


def resolved(selector: str, rules: Iterable[type[Rule]]) -> frozenset[str]:
    """Return the codes of the rules that `selector` names.

    Raises:
        UnknownRuleError: it names none; the message has the nearest codes or names.
    """
    rules = list(rules)
    code = selector.strip().upper()
    found = frozenset(rule.code for rule in rules if (code and rule.code.startswith(code)) or rule.name == selector)
    if not found:
        # A digit that is wrong looks like a code, and a typo looks like a name: try both.
        near = get_close_matches(code, [rule.code for rule in rules], n=2) or get_close_matches(
            selector.lower(), [rule.name for rule in rules], n=2
        )
        hint = f"Did you mean {' or '.join(near)}?" if near else "Codes are like CL101, prefixes like CL1."
        raise UnknownRuleError(f"'{selector}' names no rule. {hint}")
    return found
