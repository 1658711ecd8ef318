"""Check: hold jobs against their committed snapshots, as CI does. Needs no GPU.

    python examples/check/check.py

The first check passes. The second has one wrong word in a target, and fails with the file, the line
and the right word. A repository's own CI needs one line: `clora-inspect --check`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def check(folder: Path) -> int:
    """Run `clora-inspect --check` on the configuration in `folder`; return its exit status."""
    print(f"$ clora-inspect --check    # in {folder.name}", flush=True)
    return subprocess.run([sys.executable, "-m", "clora_inspect", "--check"], cwd=folder, check=False).returncode


def main() -> None:
    """Check this folder, then a copy of it with a mistake."""
    passed = check(HERE)
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(HERE, Path(folder) / "with-a-mistake")
        config = copy / "clora-inspect.toml"
        config.write_text(config.read_text(encoding="utf-8").replace('"linear_k"', '"linear_kv"'), encoding="utf-8")
        failed = check(copy)
    print(f"exit status {passed} without the mistake, {failed} with it")


if __name__ == "__main__":
    main()
