"""Make the harness, the tasks and the builders of models importable by name. The ranks' processes
get the same path.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

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
