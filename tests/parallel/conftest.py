"""The harness, the tasks and the models' builders are importable by name, here and in the processes of the ranks."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent

sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent / "clora", HERE.parent / "clora_inspect" / "virtual")]
