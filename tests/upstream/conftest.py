"""Make the tool's modules importable by name, as they are when `run.py` runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of another release first: at the end they would leave a worker idle."""
    items.sort(key=lambda item: item.path.name != "test_oldest_release.py")
