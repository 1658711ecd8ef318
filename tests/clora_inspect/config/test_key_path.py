"""Paths of keys, and their spelling."""

from __future__ import annotations

import pytest

from clora_inspect.config.key_path import KeyPath, parsed, written

PATHS: list[tuple[str, KeyPath]] = [
    ("snapshots", ("snapshots",)),
    ("lora.main.target_modules[4]", ("lora", "main", "target_modules", 4)),
    ('jobs."llama3.1-405b".layouts.train.tp', ("jobs", "llama3.1-405b", "layouts", "train", "tp")),
    ("allow[0].rule", ("allow", 0, "rule")),
    ('rules."with \\"quotes\\""', ("rules", 'with "quotes"')),
]


@pytest.mark.parametrize(("text", "path"), PATHS)
def test_a_path_is_written_and_read(text: str, path: KeyPath) -> None:
    assert written(path) == text
    assert parsed(text) == path


@pytest.mark.parametrize("text", ["", ".a", "a..b", "a[", "a.[0]", "[0]", "a b", "a[x]", "a."])
def test_what_is_no_path(text: str) -> None:
    assert parsed(text) is None
