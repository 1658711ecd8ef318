"""Tests of one group run on one worker: they share processes of ranks, a browser and a server."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TESTS = """
import pytest

@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(8))
def test_of_a_group(number, worker_id):
    with open("workers", "a") as file:
        file.write(worker_id + "\\n")
"""


def test_pytest_and_xdist_keep_a_group_on_one_worker(tmp_path: Path) -> None:
    """With pytest 9.2, pytest-xdist 3.8 ignores the mark without a word."""
    (tmp_path / "test_groups.py").write_text(TESTS)
    words = ("-q", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CLORA_"))}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "test_groups.py"],
        cwd=tmp_path,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 8
    assert len(set(workers)) == 1
