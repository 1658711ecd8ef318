"""The list in docs/pains.md: every pain has rules that exist, or a reason why there is none."""

from __future__ import annotations

import re
from pathlib import Path

from clora_inspect.rules import all_rules

PAGE = Path(__file__).parents[3] / "docs" / "pains.md"
ITEM = re.compile(r"^(\d+)\. (.+?)\n +- (.+?)$(?!\n {4,})", re.MULTILINE | re.DOTALL)
PAINS = 57


def pains() -> list[tuple[str, ...]]:
    """Number, pain and answer of each item."""
    return [
        tuple(" ".join(group.split()) for group in found.groups())
        for found in ITEM.finditer(PAGE.read_text(encoding="utf-8"))
    ]


def test_every_pain_is_listed_once() -> None:
    assert [int(number) for number, _, _ in pains()] == list(range(1, PAINS + 1))


def test_every_pain_has_a_rule_or_a_reason() -> None:
    known = {rule.code for rule in all_rules()}
    for number, _, answer in pains():
        codes = set(re.findall(r"CL\d{3}", answer))
        assert codes <= known, number
        if answer.startswith("None:"):
            assert len(answer) > 60, number
        else:
            assert codes, number


def test_marks_of_the_reference_are_true() -> None:
    rules = {rule.code: rule for rule in all_rules()}
    for number, _, answer in pains():
        for code in re.findall(r"(CL\d{3}) \(reference\)", answer):
            assert rules[code].reference_only, (number, code)
        for code in re.findall(r"(CL\d{3})(?! \(reference\))", answer):
            assert not rules[code].reference_only, (number, code)
