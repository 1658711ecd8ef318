"""`python -m clora_inspect`."""

from __future__ import annotations

import sys

from clora_inspect.cli import main

if __name__ == "__main__":
    sys.exit(main())
