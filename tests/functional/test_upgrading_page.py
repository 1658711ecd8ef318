"""Files and switches that docs/upgrading.md and docs/compatibility.md name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("upgrading", "compatibility")
TEXTS = {page: (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in PAGES}
FILES = sorted({name for text in TEXTS.values() for name in re.findall(r"`((?!\.\.)(?:[\w.-]+/)+[\w.-]*)`", text)})


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
