"""The pages, and the programs that their stories call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# The browser of the tests of `clora-inspect report`.
sys.path.append(str(Path(__file__).parents[1] / "functional" / "page"))

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """Return a folder with `clora-inspect` and `python` that start at once: forks of a process that
    has imported megatron-core.
    """
    from fork_server import write_shims

    server_file = Path(__file__).parent / "fork_server.py"
    # Not in pytest's folder: the path of a socket may have 107 characters.
    with TemporaryDirectory(prefix="clora-docs-") as folder:
        (Path(folder) / "bin").mkdir()
        socket = Path(folder) / "socket"
        write_shims(Path(folder) / "bin", socket)
        server = subprocess.Popen(
            [sys.executable, "-P", str(server_file), str(socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("CLORA_INSPECT_")},
        )
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield Path(folder) / "bin"
        server.stdin.close()
        server.wait(timeout=60)
        server.stdout.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, built strictly and without a warning."""
    from site_build import ROOT, built

    folder = tmp_path_factory.mktemp("site")
    ran = built(ROOT / "mkdocs.yml", folder)
    assert ran.returncode == 0, ran.stderr
    assert "WARNING" not in ran.stderr + ran.stdout
    return folder
