"""The tables of docs/conflicts.md: every row has rules that exist, or a reason why it has none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clora.families import families
from clora_inspect import engines
from clora_inspect.rules import all_rules

PAGE = Path(__file__).parents[3] / "docs" / "conflicts.md"
RULES = {rule.code: rule for rule in all_rules()}


def rows() -> list[tuple[str, ...]]:
    """Return the three cells of each row, without the heads of the tables."""
    lines = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| "))
    cells = (tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines)
    return [row for row in cells if row[0] not in ("setting", "engine")]


def test_the_lists_are_whole() -> None:
    serving = [row for row in rows() if row[0].split(",")[0] in ("vLLM", "SGLang", "any")]
    assert (len(rows()) - len(serving), len(serving)) == (28, 19)
    assert {row[0] for row in serving} >= {engines.load(name).title for name in engines.names()}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_every_row_has_a_rule_or_a_reason(row: tuple[str, str, str]) -> None:
    _, effect, answer = row
    assert effect
    codes = re.findall(r"CL\d{3}", answer)
    assert set(codes) <= RULES.keys()
    if answer.startswith("None:"):
        assert len(answer) > 40
    else:
        assert codes
    for code in re.findall(r"(CL\d{3}) \(reference\)", answer):
        assert RULES[code].reference_only, code


@pytest.mark.parametrize("name", engines.names())
def test_a_profile_names_its_release_and_what_was_read(name: str) -> None:
    engine = engines.load(name)
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", engine.version)
    assert engine.label == f"{engine.title} {engine.version}"
    assert engine.read_on.year >= 2026
    assert engine.read
    assert not engine.no_head_model_types & (engine.head_model_types or set())
    assert (engine.head_model_types or set()) | engine.no_head_model_types <= families().keys()
    # What it is known not to apply cannot be on the list of what it applies.
    assert not engine.not_applied.keys() & engine.modules
    assert not any(reason.endswith(".") for reason in engine.not_applied.values())
