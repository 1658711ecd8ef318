"""The harness, the tasks and the models' builders are importable by name, here and in the processes
of the ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent

INSPECT = HERE.parent / "clora_inspect"

sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent / "clora", INSPECT / "virtual", INSPECT / "verify")]
