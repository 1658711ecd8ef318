"""The folder of multiprocessing's sockets, with temporary folders of every length."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clora.folders.socket_folder import LONGEST_PATH, OWN_FOLDER, SOCKET

PROGRAM = """\
import multiprocessing, sys
from multiprocessing import util
from clora.folders.socket_folder import keep_socket_paths_short

if __name__ == "__main__":
    keep_socket_paths_short()
    folder = util.get_temp_dir()
    keep_socket_paths_short()
    assert util.get_temp_dir() == folder
    with multiprocessing.get_context("spawn").Manager() as manager:
        manager.list().append(1)
    print(folder)
"""


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="has no Unix sockets")
@pytest.mark.parametrize("more", [0, 1, 30])
def test_a_manager_starts_with_any_temporary_folder(tmp_path: Path, more: int) -> None:
    """A folder of the longest length that multiprocessing can use itself is left alone."""
    wanted = LONGEST_PATH - SOCKET - OWN_FOLDER + more
    folder = str(tmp_path) + "/"
    folder += "t" * (wanted - len(folder))
    if len(folder) != wanted:
        pytest.skip("the folder of the test is long already")
    Path(folder).mkdir()
    (tmp_path / "program.py").write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"TMPDIR": folder},
    )
    assert ran.returncode == 0, ran.stderr
    used = Path(ran.stdout.strip())
    assert (used.parent == Path(folder)) == (more == 0)
    assert not used.exists()
