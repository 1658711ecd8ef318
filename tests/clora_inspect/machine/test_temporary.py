"""Temporary folders go with their owner, however it ends, and nobody else's are touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clora_inspect.machine.temporary import LOCK, delete_abandoned, temporary_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither these locks nor these signals")

OWNER = """
import time
from clora_inspect.machine.ending import cleaned_up_on_signals
from clora_inspect.machine.temporary import temporary_folder
with cleaned_up_on_signals(), temporary_folder("test") as folder:
    print(folder, flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_folder_of_an_owner_that_was_told_to_end_is_deleted(number: signal.Signals) -> None:
    # Tests that were started by nohup ignore SIGHUP, and so would the owner.
    heard = f"import signal\nsignal.signal({int(signal.SIGHUP)}, signal.SIG_DFL)\n{OWNER}"
    with subprocess.Popen([sys.executable, "-c", heard], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        made = Path(owner.stdout.readline().strip())
        delete_abandoned()
        assert made.is_dir(), "its owner lives"
        owner.send_signal(number)
        assert owner.wait(60) == -number
    assert made.exists() == (number is signal.SIGKILL)
    delete_abandoned()
    assert not made.exists()


def test_only_abandoned_folders_of_ours_are_deleted(folder: Path) -> None:
    others, new, file, old = (
        folder / name for name in ("other-1", "clora-inspect-new", "clora-inspect-file", "clora-inspect-old")
    )
    for each in (others, new, old):
        each.mkdir()
    file.write_text("a file")
    (folder / "clora-inspect-link").symlink_to(others)
    os.utime(old, (0, 0))
    (others / LOCK).write_text("")
    with temporary_folder("own") as own:
        delete_abandoned()
        assert own.is_dir()
    assert not own.exists()
    assert not old.exists()
    assert others.is_dir()
    assert new.is_dir()
    assert file.is_file()
