"""Make the modules beside the tests importable by name, such as `golden_files`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
# The small configs of every family stand with the proofs.
sys.path[:0] = [str(HERE), str(HERE.parent / "clora_inspect" / "verify")]
