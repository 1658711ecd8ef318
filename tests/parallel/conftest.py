"""Make the harness, the tasks and the builders of models importable by name. The ranks' processes
get the same path.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent

INSPECT = HERE.parent / "clora_inspect"

sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent / "clora", INSPECT / "virtual", INSPECT / "verify")]
