"""The builders beside the tests are importable by name, in pytest's process and in the processes it
starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
