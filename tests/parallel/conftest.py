"""Make the harness, the tasks and the builders of models importable by name. The ranks' processes
get the same path.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clora_inspect.verify.ranks.worlds import LocalProcesses

HERE = Path(__file__).parent

INSPECT = HERE.parent / "clora_inspect"

FOLDERS = (HERE, HERE / "tasks", HERE.parent / "clora", *(INSPECT / name for name in ("rules", "virtual", "verify")))

sys.path[:0] = [str(folder) for folder in FOLDERS]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker: they share what one rank gives, and the processes."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture
def shared_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `verify --procs N` use the processes of the tests in place of new ones."""
    from gloo import processes

    from clora_inspect.verify import job
    from clora_inspect.verify.ranks.worlds import LocalProcesses

    @contextmanager
    def open_world(procs: int, *_options: object) -> Iterator[LocalProcesses]:
        yield LocalProcesses(processes(procs), procs)

    monkeypatch.setattr(job, "open_world", open_world)


@pytest.fixture(scope="module")
def installed(wheel_of: Callable[[str], Path]) -> list[str]:
    """Return the folders with Megatron-Bridge; none where the caller has put one on the path."""
    if "CLORA_BRIDGE_RELEASE" in os.environ:
        return []
    return [str(wheel_of(release)) for release in ("megatron-bridge==0.3.1", "omegaconf==2.4.0")]
