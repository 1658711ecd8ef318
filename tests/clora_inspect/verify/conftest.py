"""Make this folder importable, here and in the processes of ranks, for the broken surgeries, and
give tests a world of one rank.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def one_cpu_rank() -> Iterator[None]:
    """Enter the world in which `verify` proves on one rank of the CPU."""
    from clora_inspect.verify.ranks.worlds import one_rank

    with one_rank(Layout(), "cpu"):
        yield
