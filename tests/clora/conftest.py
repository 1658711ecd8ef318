"""Make the modules that build models importable by name: those here and `tiny_models`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent

sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent / "clora_inspect" / "virtual")]
