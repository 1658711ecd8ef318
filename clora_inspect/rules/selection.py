"""`Selection`: which rules run, and how bad a finding must be to fail. Pure."""

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
    """A selector that is no code, no prefix of a code and no name of a rule."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Selectors are codes (`CL101`), prefixes of codes (`CL1`) or names (`unmatched-target`). The
    more exact one wins.

    So `select = ["CL1"]` with `ignore = ["CL105"]` runs all of CL1 but CL105, and
    `extend_select = ["CL105"]` with `ignore = ["CL1"]` runs CL105 alone of its family. Of two that
    are equally exact `ignore` wins.
    """

    select: tuple[str, ...] = ("CL",)
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    fail_on: Severity = Severity.ERROR

    def codes(self, rules: Sequence[type[Rule]]) -> frozenset[str]:
        """Codes of the rules that run.

        Raises:
            UnknownRuleError: a selector that names no rule; the message has the nearest.
        """
        chosen = [resolved(selector, rules) for selector in (*self.select, *self.extend_select)]
        left_out = [resolved(selector, rules) for selector in self.ignore]
        running = set()
        for rule in rules:
            wanted = min((len(codes) for codes in chosen if rule.code in codes), default=None)
            unwanted = min((len(codes) for codes in left_out if rule.code in codes), default=None)
            if wanted is not None and (unwanted is None or wanted < unwanted):
                running.add(rule.code)
        return frozenset(running)


def resolved(selector: str, rules: Iterable[type[Rule]]) -> frozenset[str]:
    """Codes of the rules that `selector` names.

    Raises:
        UnknownRuleError: none.
    """
    rules = list(rules)
    code = selector.strip().upper()
    found = frozenset(rule.code for rule in rules if (code and rule.code.startswith(code)) or rule.name == selector)
    if not found:
        near = get_close_matches(code, [rule.code for rule in rules], n=2) or get_close_matches(
            selector.lower(), [rule.name for rule in rules], n=2
        )
        hint = f"Did you mean {' or '.join(near)}?" if near else "Codes are like CL101, prefixes like CL1."
        raise UnknownRuleError(f"'{selector}' names no rule. {hint}")
    return found
