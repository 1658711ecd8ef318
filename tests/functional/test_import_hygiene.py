"""What a command may import, as sets of modules in a process of its own: a stop-watch on a shared machine lies, `sys.modules` does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import modules_imported_by, own_process

if TYPE_CHECKING:
    from pathlib import Path

BUILDS_MODELS = {"torch", "megatron", "transformer_engine"}
HEAVY = BUILDS_MODELS | {"networkx", "textual", "rich", "numpy"}

COMMANDS = [
    # words, modules that must stay out
    (("--help",), {*HEAVY, "msgspec", "clora.patterns"}),
    (("--version",), {*HEAVY, "msgspec", "clora.patterns"}),
    (("plan", "--help"), {*HEAVY, "msgspec"}),
    (("graph", "--help"), {*HEAVY, "msgspec"}),
    (("help", "plan"), {*HEAVY, "msgspec"}),
    (("info",), HEAVY),
    (("info", "-f", "json"), HEAVY),
    (("info", "--completion", "zsh"), HEAVY),
    (("plan", "SAVED"), HEAVY),
    (("plan", "SAVED", "-f", "json"), HEAVY),
    (("plan", "SAVED", "--only", "missed"), HEAVY),
    (("graph", "SAVED", "-f", "mermaid"), HEAVY - {"networkx", "numpy"}),
    (("graph", "SAVED", "-f", "graphml"), HEAVY - {"networkx", "numpy"}),
]


@pytest.mark.parametrize(("words", "kept_out"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_a_command_imports_only_what_it_needs(words: tuple[str, ...], kept_out: set[str], saved_plan: Path) -> None:
    modules = modules_imported_by(*(str(saved_plan) if word == "SAVED" else word for word in words))
    assert kept_out & modules == set()
    assert "clora_inspect.cli" in modules


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("clora-inspect ", "plan"),
        ("clora-inspect plan deepseek-v", "deepseek-v3"),
        ("clora-inspect plan llama3-8b --target-modules linear_q,linear_fc1_", "linear_q,linear_fc1_gate"),
        ("clora-inspect plan llama3-8b --device ", "cuda"),
        ("clora-inspect plan llama3-8b --world", "--world-size"),
    ],
)
def test_completion_imports_nothing_heavy(line: str, completed: str, tmp_path: Path) -> None:
    report = tmp_path / "modules"
    (tmp_path / "sitecustomize.py").write_text(
        f"import atexit, sys\natexit.register(lambda: open({str(report)!r}, 'w').write(' '.join(sys.modules)))\n"
    )
    words = line.split(" ")
    ran = own_process(
        _CLORA_INSPECT_COMPLETE="bash_complete",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
        PYTHONPATH=str(tmp_path),
    )
    assert f"plain,{completed}" in ran.stdout.splitlines(), ran
    assert (HEAVY & set(report.read_text().split())) == set()
