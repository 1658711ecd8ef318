"""Everything that megatron-core can raise in a training step has a rule, or a reason why it needs
none.

`REWRITE_FORWARD_ERRORS=1` writes `docs/forward-time-errors.md` anew.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
from forward_source import FILES, Refusal, refusals
from forward_verdicts import SILENT, VERDICTS

from clora.megatron_releases import PINNED
from clora_inspect.rules import all_rules

PAGE = Path(__file__).parents[3] / "docs" / "forward-time-errors.md"
HEAD = """# What megatron-core raises while it trains

A layout or a setting can pass megatron-core's constructors and fail in the first training step.
These tables list every `raise` and `assert` of megatron-core {release} in the functions that run in
a step, and what this project does about it: the rule that finds it beforehand, or why it needs
none. A test compares them with the installed source. They are written by
`REWRITE_FORWARD_ERRORS=1 pytest tests/clora_inspect/rules/test_forward_errors.py`.

Each rule that stops training is held by a job that really runs into its exception, and by one that
trains: `tests/parallel/test_training_rules_hold.py`.
"""
CODE = re.compile(r"CL\d{3}")
RULES = {rule.code: rule for rule in all_rules()}


def words_of(refusal: Refusal) -> str | None:
    """Return the words by which the table names `refusal`; None when it has no row."""
    verdict = VERDICTS.get(refusal.where)
    if isinstance(verdict, str):
        return ""
    text = f"{refusal.condition} {refusal.says}"
    return next((words for words in verdict or () if words in text), None)


def verdict_of(refusal: Refusal) -> str:
    verdict = VERDICTS[refusal.where]
    return verdict if isinstance(verdict, str) else verdict[words_of(refusal) or ""]


def render(release: str) -> str:
    lines = [HEAD.format(release=release), "## Refused", ""]
    for file in FILES:
        inside = [each for each in refusals() if each.file == file]
        if inside:
            lines += [f"### {file}", "", "| function | raises if | rule, or why none |", "|---|---|---|"]
            lines += [
                f"| {each.function} | {cell(each.condition or each.says)} | {linked(verdict_of(each))} |"
                for each in inside
            ]
            lines.append("")
    lines += ["## Wrong without a word of megatron-core's", "", "| where | what | rule |", "|---|---|---|"]
    lines += [f"| {where} | {what} | {linked(code)} |" for where, what, code in SILENT]
    return "\n".join([*lines, ""])


def cell(condition: str) -> str:
    short = condition if len(condition) <= 160 else f"... {condition[-156:]}"
    return f"`{short}`".replace("|", "\\|")


def linked(verdict: str) -> str:
    return CODE.sub(lambda code: f"[{code[0]}](rules.md#{code[0].lower()}-{RULES[code[0]].name})", verdict)


def test_every_refusal_has_a_verdict() -> None:
    assert [f"{each.where}: {each.condition}" for each in refusals() if words_of(each) is None] == []


def test_every_verdict_is_about_something() -> None:
    used = Counter((each.where, words_of(each)) for each in refusals())
    written = [
        (where, words)
        for where, verdict in VERDICTS.items()
        for words in ([""] if isinstance(verdict, str) else verdict)
    ]
    assert [each for each in written if not used[each]] == []


def test_every_code_is_a_rule() -> None:
    verdicts = [
        text for verdict in VERDICTS.values() for text in ([verdict] if isinstance(verdict, str) else verdict.values())
    ]
    codes = {code for text in [*verdicts, *(code for *_, code in SILENT)] for code in CODE.findall(text)}
    assert codes <= set(RULES)
    assert {code for code, rule in RULES.items() if rule.stops_training} <= codes


def test_what_is_silently_wrong_names_functions_that_exist() -> None:
    import ast
    from importlib.util import find_spec

    root = Path(str(find_spec("megatron.core").origin)).parent  # type: ignore[union-attr]
    for where, *_ in SILENT:
        file, _, function = where.partition(":")
        names = {
            node.name for node in ast.walk(ast.parse((root / file).read_text())) if isinstance(node, ast.FunctionDef)
        }
        assert function.rpartition(".")[2] in names, where


def test_the_page_is_written_from_the_table() -> None:
    release = version("megatron-core")
    if release != PINNED:
        pytest.skip(f"the page is about megatron-core {PINNED}")
    page = render(release)
    if os.environ.get("REWRITE_FORWARD_ERRORS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page
