"""Run commands where Megatron-Bridge is installed, or is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PROGRAM = """
import contextlib, io, json, sys
from clora_inspect.cli import main

ran = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    ran.append([status, out.getvalue(), err.getvalue()])
json.dump(ran, sys.stdout)
"""


class Ran(NamedTuple):
    status: int
    out: str
    err: str


def run_all(commands: Sequence[Sequence[str]], *installed: Path) -> list[Ran]:
    """Run command lines one after another in one process, with the packages in `installed`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLORA_INSPECT_")}
    path = os.pathsep.join(filter(None, [*map(str, installed), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([list(words) for words in commands]),
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
        env={**kept, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [Ran(*each) for each in json.loads(done.stdout)]
