"""The modules that a command may import. Each runs in a process of its own, where `sys.modules` is
read: times vary on a shared machine, imports do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import modules_imported_by, own_process

if TYPE_CHECKING:
    from pathlib import Path

BUILDS_MODELS = {"torch", "megatron", "transformer_engine"}
HEAVY = BUILDS_MODELS | {"networkx", "textual", "rich", "numpy"}

CONFIG = """\
[lora.few]
target_modules = ["linear_q", "linear_k", "linear_v", "linear_proj"]
dim = 16
alpha = 32

[jobs.small]
model = "qwen2.5-0.5b"
lora = "few"
layouts = { train = { tp = 2 }, wide = { tp = 2, pp = 2 } }

[jobs.experts]
model = "mixtral-8x7b"
set.model = { num_layers = 2 }
layouts = { train = { ep = 2 } }
"""

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


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with configured jobs, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clora-inspect.toml").write_text(CONFIG)
    return tmp_path


def test_a_check_of_what_did_not_change_imports_neither_torch_nor_megatron(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    # megatron-core leaves `sys.modules` together with the virtual world; torch stays and tells that
    # models were built.
    assert "torch" in modules_imported_by("snapshot", "accept", "-q")
    assert list(repository.glob(".clora_cache/*"))
    assert "torch" in modules_imported_by("--check", "--no-cache", "--no-progress", "--exit-zero")
    for words in (
        ("--check", "--no-progress", "--exit-zero"),
        ("--check", "--no-progress", "--exit-zero", "-f", "github"),
        ("check", "small/wide", "--no-progress", "--exit-zero", "--write", "sarif=found.sarif"),
        ("diff", "experts"),
    ):
        assert modules_imported_by(*words) & HEAVY == set(), words
    # Another rank is another plan: the gate can fail.
    assert "torch" in modules_imported_by("check", "small", "--dim", "8", "--no-progress", "--exit-zero")


@pytest.mark.parametrize("words", ["config show", "config validate", "snapshot list", "explain CL101", "explain jobs"])
@pytest.mark.usefixtures("repository")
def test_what_reads_only_the_configuration_imports_nothing_heavy(words: str) -> None:
    assert modules_imported_by(*words.split()) & {*HEAVY, "email"} == set()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("clora-inspect plan smal", "small"),
        ("clora-inspect check smal", "small"),
        ("clora-inspect verify small --layout tr", "train"),
        ("clora-inspect plan llama3-8b --lora f", "few"),
        ("clora-inspect check --select CL1", "CL101"),
        ("clora-inspect explain CL10", "CL104"),
        ("clora-inspect ", "plan"),
        ("clora-inspect plan deepseek-v", "deepseek-v3"),
        ("clora-inspect plan llama3-8b --target-modules linear_q,linear_fc1_", "linear_q,linear_fc1_gate"),
        ("clora-inspect plan llama3-8b --device ", "cuda"),
        ("clora-inspect plan llama3-8b --world", "--world-size"),
    ],
)
def test_completion_imports_nothing_heavy(line: str, completed: str, repository: Path) -> None:
    report = repository / "modules"
    (repository / "sitecustomize.py").write_text(
        f"import atexit, sys\natexit.register(lambda: open({str(report)!r}, 'w').write(' '.join(sys.modules)))\n"
    )
    words = line.split(" ")
    ran = own_process(
        _CLORA_INSPECT_COMPLETE="bash_complete",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
        PYTHONPATH=str(repository),
    )
    assert f"plain,{completed}" in ran.stdout.splitlines(), ran
    assert (HEAVY & set(report.read_text().split())) == set()
