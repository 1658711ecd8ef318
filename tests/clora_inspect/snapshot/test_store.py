"""The files of snapshots: whole or not at all, and what is pending beside them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from test_drift import Q, V, snapshot

from clora_inspect.machine import atomic_file
from clora_inspect.snapshot.errors import SnapshotError
from clora_inspect.snapshot.store import Store, in_ci


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "snapshots", tmp_path)


def test_accepting_drops_what_waited(store: Store) -> None:
    store.offer("job", "train", snapshot(*Q))
    assert (store.kept(), store.pending()) == ([], [("job", "train")])
    store.accept("job", "train", snapshot(*Q))
    assert (store.kept(), store.pending()) == ([("job", "train")], [])
    assert store.read("job", "train") == snapshot(*Q)
    assert store.read("job", "serve") is None
    assert "eol=lf" in (store.folder / ".gitattributes").read_text()
    assert "*.json.new" in (store.folder / ".gitignore").read_text().splitlines()


def test_an_equal_snapshot_is_not_written_again(store: Store) -> None:
    path = store.accept("job", "train", snapshot(*Q))
    os.utime(path, (1, 1))
    store.accept("job", "train", snapshot(*Q))
    assert path.stat().st_mtime == 1
    store.accept("job", "train", snapshot(*V))
    assert path.stat().st_mtime > 1


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_loses_nothing(store: Store, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.accept("job", "train", snapshot(*Q))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((atomic_file.os, "fsync") if where == "fsync" else (Path, "replace")), full)
    with pytest.raises(
        SnapshotError,
        match=r"snapshots/job/train\.json cannot be written: No space left on device\. Nothing was lost\.",
    ):
        store.accept("job", "train", snapshot(*V))
    monkeypatch.undo()
    assert store.read("job", "train") == snapshot(*Q)
    assert [path.name for path in (store.folder / "job").iterdir()] == ["train.json"]


def test_an_interrupted_write_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.accept("job", "train", snapshot(*Q))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic_file.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.accept("job", "train", snapshot(*V))
    monkeypatch.undo()
    assert store.read("job", "train") == snapshot(*Q)
    assert [path.name for path in (store.folder / "job").iterdir()] == ["train.json"]


def test_removing_the_last_layout_removes_the_folder(store: Store) -> None:
    store.accept("job", "train", snapshot(*Q))
    store.accept("job", "serve", snapshot(*Q))
    store.remove("job", "train")
    assert store.kept() == [("job", "serve")]
    store.remove("job", "serve")
    assert not (store.folder / "job").exists()


@pytest.mark.parametrize(
    ("value", "ci"), [("true", True), ("1", True), ("", False), ("false", False), ("0", False), (None, False)]
)
def test_whether_this_is_ci(value: str | None, ci: bool) -> None:
    assert in_ci({} if value is None else {"CI": value}) is ci


def test_a_name_that_is_too_long_for_a_waiting_snapshot_stops_nothing_else(store: Store) -> None:
    """`NAME.json` has 255 bytes, as many as a name may have, and `NAME.json.new` four more."""
    name = "x" * 250
    accepted = store.accept("small", name, snapshot(*Q))
    assert accepted.is_file()
    store.reject("small", name)
    with pytest.raises(SnapshotError, match="cannot be written: File name too long"):
        store.offer("small", name, snapshot(*Q))
