"""Make the modules beside the tests importable by name, such as `architectures`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
