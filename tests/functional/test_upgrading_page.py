"""What docs/upgrading.md and docs/compatibility.md name is there: commands, files and switches."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from clora_inspect.cli.table import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = ("upgrading", "compatibility")
TEXTS = {page: (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in PAGES}
LINES = [
    line
    for text in TEXTS.values()
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    for line in block.splitlines()
]
FILES = sorted({name for text in TEXTS.values() for name in re.findall(r"`((?!\.\.)(?:[\w.-]+/)+[\w.-]*)`", text)})


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_pages_exists(line: str) -> None:
    words = [word for word in shlex.split(line.removeprefix("$ ")) if not word.startswith("PYTHONPATH=")]
    match words:
        case ["python", "-m", module, *_]:
            assert find_spec(module) is not None
        case ["make", target, *variables]:
            makefile = (ROOT / "Makefile").read_text()
            assert f"\n{target}:" in makefile
            assert all(f"$({variable.partition('=')[0]})" in makefile for variable in variables)
        case ["pytest", path]:
            assert (ROOT / path).is_file()
        case ["clora-inspect", command, *_]:
            assert command in COMMANDS
        case _:
            pytest.fail(f"no kind of command that is known: {line}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_pages_exists(name: str) -> None:
    assert any((folder / name).exists() for folder in (ROOT, ROOT / "clora_inspect" / "virtual", ROOT / "docs"))


@pytest.mark.parametrize(
    ("page", "word", "file"),
    [
        ("upgrading", "REWRITE_FORWARD_ERRORS", "tests/clora_inspect/rules/test_forward_errors.py"),
        ("upgrading", "FILES", "tests/clora_inspect/rules/forward_source.py"),
        ("upgrading", "RELEASES", "tests/clora_inspect/virtual/test_transformer_engine_parity.py"),
        ("upgrading", "NOT_YET", "tests/clora_inspect/virtual/test_transformer_engine_parity.py"),
        ("upgrading", "STAND_INS", "clora_inspect/virtual/module_set.py"),
        ("upgrading", "SUPPORTED", "clora/megatron_releases.py"),
        ("upgrading", "PINNED", "clora/megatron_releases.py"),
        ("upgrading", "bypassed_by", "clora/linears.py"),
        ("compatibility", "clora_snapshot", "clora_inspect/pytest_plugin.py"),
    ],
)
def test_a_name_of_the_pages_is_in_its_file(page: str, word: str, file: str) -> None:
    assert f"`{word}" in TEXTS[page]
    assert word in (ROOT / file).read_text(encoding="utf-8")
