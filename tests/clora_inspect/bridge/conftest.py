"""Megatron-Bridge 0.3.1 for the tests: its wheel without dependencies, in a folder of its own (see
`wheel_of`), and beside it what it imports and is not installed here anyway.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from with_bridge import Ran

RELEASES = ("megatron-bridge==0.3.1", "omegaconf==2.4.0")


@pytest.fixture(scope="session")
def with_bridge(wheel_of: Callable[[str], Path]) -> Callable[[Sequence[Sequence[str]]], list[Ran]]:
    """Runs command lines one after another in one process, which imports torch once."""
    from with_bridge import run_all

    folders = [wheel_of(release) for release in RELEASES]
    return lambda commands: run_all(commands, *folders)
