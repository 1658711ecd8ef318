"""Output into a named pipe: it waits for a reader, and not for ever."""

from __future__ import annotations

import os
import sys
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from clora_inspect.machine import atomic_file
from clora_inspect.machine.atomic_file import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_pipe_that_nobody_reads_is_an_error(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_file, "LONGEST_WAIT_S", 0.1)
    raised: list[BaseException] = []

    def write() -> None:
        try:
            write_atomically(pipe, b"data")
        except OSError as error:
            raised.append(error)

    # In a thread, because this test could not end if the writer waited.
    writer = Thread(target=write, daemon=True)
    writer.start()
    writer.join(20)
    assert not writer.is_alive()
    assert [str(error) for error in raised] == [f"[Errno 6] it is a pipe that no process reads: '{pipe}'"]
    assert pipe.is_fifo()


def test_a_reader_gets_more_than_a_pipe_holds(pipe: Path) -> None:
    data = bytes(range(256)) * 4096
    read: list[bytes] = []
    reader = Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomically(pipe, data)
    reader.join(20)
    assert read == [data]
