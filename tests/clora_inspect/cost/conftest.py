"""Make the tiny models and the benchmarks importable by name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "virtual"))
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
