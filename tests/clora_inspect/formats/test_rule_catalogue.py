"""The page of all rules in the docs."""

from __future__ import annotations

import re
from pathlib import Path

from clora_inspect.formats.rules.catalogue import render
from clora_inspect.rules import all_rules

DOCS = Path(__file__).parents[3] / "docs" / "rules.md"


def test_the_docs_are_current() -> None:
    assert render() == DOCS.read_text(encoding="utf-8"), (
        "write docs/rules.md anew: python -m clora_inspect.formats.rules.catalogue > docs/rules.md"
    )


def test_every_rule_has_an_entry_that_its_row_leads_to() -> None:
    page = render()
    rows = re.findall(r"^\| \[(CL\d{3})\]\(#(\S+)\)", page, re.MULTILINE)
    headings = re.findall(r"^### (CL\d{3}) (\S+)$", page, re.MULTILINE)
    assert [code for code, _ in rows] == [code for code, _ in headings] == sorted(rule.code for rule in all_rules())
    assert [anchor for _, anchor in rows] == [f"{code.lower()}-{name}" for code, name in headings]
