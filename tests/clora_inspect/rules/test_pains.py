"""The table in docs/pains.md: every pain has a rule that there is, or a reason why there is none."""

from __future__ import annotations

import re
from pathlib import Path

from clora_inspect.rules import all_rules

TABLE = Path(__file__).parents[3] / "docs" / "pains.md"
ROW = re.compile(r"\| (\d+) \| (.+?) \| (.+) \|")
PAINS = 57


def rows() -> list[tuple[str, ...]]:
    return [found.groups() for line in TABLE.read_text(encoding="utf-8").splitlines() if (found := ROW.fullmatch(line))]


def test_every_pain_is_in_the_table_once() -> None:
    assert [int(number) for number, _, _ in rows()] == list(range(1, PAINS + 1))


def test_every_pain_has_a_rule_or_a_reason() -> None:
    known = {rule.code for rule in all_rules()}
    for number, _, answer in rows():
        codes = set(re.findall(r"CL\d{3}", answer))
        assert codes <= known, number
        if answer.startswith("none"):
            assert len(answer) > 60, number
        else:
            assert codes, number


def test_marks_of_the_reference_are_true() -> None:
    rules = {rule.code: rule for rule in all_rules()}
    for number, _, answer in rows():
        for code in re.findall(r"(CL\d{3}) \(reference\)", answer):
            assert rules[code].reference_only, (number, code)
        for code in re.findall(r"(CL\d{3})(?! \(reference\))", answer):
            assert not rules[code].reference_only, (number, code)
