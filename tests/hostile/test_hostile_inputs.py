"""Every parser answers a hostile input with a documented error, in time and within its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

MEMORY = 1 << 30
"""Bytes that no input may take, with torch in the process."""


def _small_plan(folder: Path) -> dict[str, Any]:
    from clora_inspect.cli import main

    words = ["plan", "qwen2.5-0.5b", "--isolated", "--dim", "16", "--set", "model.num_layers=2", "-q"]
    assert main([*words, "-o", str(folder / "right.json")]) == 0
    plan: dict[str, Any] = json.loads((folder / "right.json").read_text())
    return plan


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run all cases in one process and return what it printed of each, with the case."""
    from hostile_cases import cases

    from clora_inspect.job.plan import decode
    from clora_inspect.snapshot.record import encode, take

    folder = tmp_path_factory.mktemp("hostile")
    plan = _small_plan(folder)
    text = json.dumps(plan)
    snapshot = json.loads(encode(take(decode(text.encode(), "right.json"), "job")))
    table = cases(plan, snapshot)
    written = [
        {
            "name": case.name,
            "words": case.words,
            "reader": case.reader,
            # An empty plan stands for the right one.
            "files": {
                name: (content.encode() if isinstance(content, str) else content).hex()
                if content or name != "plan.json"
                else text.encode().hex()
                for name, content in case.files.items()
            },
        }
        for case in table
    ]
    (folder / "cases.json").write_text(json.dumps(written))
    (folder / "run").mkdir()
    ran = subprocess.run(
        [sys.executable, str(HERE / "run_cases.py"), str(folder / "cases.json"), str(folder / "run")],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(lines) == len(table), ran.stderr[-2000:]
    return [line | {"may": case.may, "of": case} for line, case in zip(lines, table, strict=True)]


def test_the_table_is_large_and_names_every_case_once(results: list[dict[str, Any]]) -> None:
    names = [result["name"] for result in results]
    assert len(names) >= 300
    parsers = ("pattern", "config", "plan", "snapshot", "toml", "set", "option", "adapter", "checkpoint", "run", "lora")
    assert all(sum(name.startswith(parser) for name in names) >= 10 for parser in parsers)
    # Models, LoRAs and checkpoints that come from others.
    assert sum(name.startswith(("config", "adapter", "checkpoint", "run", "lora")) for name in names) >= 150
    assert len(names) == len(set(names))


def test_every_input_gets_its_exit_code(results: list[dict[str, Any]]) -> None:
    wrong = [(r["name"], r["status"], r["text"][:300]) for r in results if r["status"] not in r["may"]]
    assert not wrong, "\n".join(map(str, wrong))


def test_no_input_is_an_internal_error(results: list[dict[str, Any]]) -> None:
    wrong = [
        (r["name"], r["text"][:300])
        for r in results
        if "internal error" in r["text"].lower() or "Traceback" in r["text"]
    ]
    assert not wrong, "\n".join(map(str, wrong))


def test_every_error_is_a_short_sentence(results: list[dict[str, Any]]) -> None:
    refused = [r for r in results if r["status"] == 2]
    assert all(r["text"].strip() for r in refused)
    long = [(r["name"], len(r["text"]), r["text"][:200]) for r in refused if len(r["text"].split("\n")[0]) > 1_500]
    assert not long, "\n".join(map(str, long))


def test_no_input_runs_or_writes_anything(results: list[dict[str, Any]]) -> None:
    assert [(r["name"], r["made"]) for r in results if r["made"]] == []


def test_no_input_takes_a_gigabyte(results: list[dict[str, Any]]) -> None:
    first = next((r["name"] for r in results if r["peak"] > MEMORY), None)
    assert first is None
