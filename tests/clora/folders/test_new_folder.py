"""New folders: complete or not there, and no folder of anybody else is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clora.errors import CheckpointError
from clora.folders.new_folder import make_unfinished


def test_it_has_its_name_when_it_is_complete(tmp_path: Path) -> None:
    folder = make_unfinished(tmp_path / "deep" / "er" / "new", CheckpointError)
    (folder.path / "file").write_text("x")
    assert not folder.final.exists()
    folder.complete()
    assert [path.name for path in folder.final.iterdir()] == ["file"]
    assert [path.name for path in folder.final.parent.iterdir()] == ["new"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = make_unfinished(tmp_path / "deep" / "er" / "new", CheckpointError)
    (folder.path / "file").write_text("x")
    folder.discard()
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_of_one_name_the_first_to_finish_has_it(tmp_path: Path) -> None:
    first, second = (make_unfinished(tmp_path / "new", CheckpointError) for _ in range(2))
    for number, folder in enumerate((first, second)):
        (folder.path / "file").write_text(str(number))
    second.complete()
    with pytest.raises(CheckpointError, match="exists already: it was made while this one was written"):
        first.complete()
    first.discard()
    assert (tmp_path / "new" / "file").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["new.unfinished", "new.1234abcd.unfinished", ".new.unfinished"])
def test_folders_of_others_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis").write_text("x")
    folder = make_unfinished(tmp_path / "new", CheckpointError)
    folder.discard()
    make_unfinished(tmp_path / "new", CheckpointError).complete()
    assert (tmp_path / name / "thesis").read_text() == "x"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is no name of a new folder"),
        ("..", "is no name of a new folder"),
        ("/", "is no name of a new folder"),
        ("a\0b", r"'a\\x00b' cannot be the name of a folder"),
        ("a\ud800b", "cannot be the name of a folder"),
        ("file", "exists already and is not overwritten"),
        ("link", "exists already and is not overwritten"),
        ("empty", "exists already and is not overwritten"),
        ("file/new", "cannot be written: a parent of it is a file"),
        ("file/more/new", "cannot be written: a parent of it is a file"),
        ("x" * 300, "cannot be written: File name too long"),
    ],
)
def test_a_bad_name_is_refused_in_words(tmp_path: Path, name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("link").symlink_to("nowhere")
    Path("empty").mkdir()
    with pytest.raises(CheckpointError, match=words):
        make_unfinished(Path(name), CheckpointError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "link"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="cannot be written: Permission denied"):
        make_unfinished(tmp_path / "new", CheckpointError)
    tmp_path.chmod(0o700)
