"""Output to what a process has open already, such as `/dev/stdout`: a log, or a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clora_inspect.machine.atomic_file import write_atomically

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no /dev/stdout")

WRITER = """
import sys
from pathlib import Path
from clora_inspect.machine.atomic_file import write_atomically
write_atomically(Path(sys.argv[1]), b"graph\\n")
"""
NAMES = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_appended_to_keeps_what_it_holds(name: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    log = tmp_path / "app.log"
    log.write_text("first\n")
    with log.open("ab") as appended:
        subprocess.run([sys.executable, "-c", WRITER, name], cwd=tmp_path, stdout=appended, check=True, timeout=120)
    assert log.read_text() == "first\ngraph\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.log", "link"]


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_of_the_shell_is_written_to(name: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    ran = subprocess.run(
        [sys.executable, "-c", WRITER, name], cwd=tmp_path, capture_output=True, check=False, timeout=120
    )
    assert (ran.stdout, ran.stderr) == (b"graph\n", b"")


def test_the_pipe_of_another_process_is_written_to(tmp_path: Path) -> None:
    """A container calls its log so: `/proc/1/fd/1`."""
    reader, writer = os.pipe()
    try:
        subprocess.run(
            [sys.executable, "-c", WRITER, f"/proc/{os.getpid()}/fd/{writer}"], cwd=tmp_path, check=True, timeout=120
        )
        assert os.read(reader, 100) == b"graph\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_descriptor_that_is_not_open_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        write_atomically(Path("/dev/fd/987654"), b"x")


def test_a_loop_of_links_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        write_atomically(tmp_path / "loop", b"")
