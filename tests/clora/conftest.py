"""Make the modules that build models importable by name, those here and `tiny_models`, and give
tests a world of one rank.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent

sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent / "clora_inspect" / "virtual")]


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """Enter the virtual world with one rank on the CPU."""
    import hf_tiny

    with hf_tiny.one_rank():
        yield
