"""Make this folder importable, here and in the processes of ranks, for the broken surgeries."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
