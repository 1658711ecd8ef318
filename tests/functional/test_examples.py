"""The examples run as their first lines say, and show what they promise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SHOWS = {
    "look.py": ["linear_fc1_up      48 adapters", "stage 1: 8 ranks, each trains 2,211,840 parameters"],
    "check/check.py": [
        'CL101 error unmatched-target: "linear_kv" matches no module',
        "did you mean: linear_k (32)",
        "exit status 0 without the mistake, 1 with it",
    ],
    "prove.py": [
        "16384 parameters will be trained",
        "B = 0 changes no bit: True",
        "exported: adapter_config.json, adapter_model.safetensors",
    ],
}


def test_every_example_is_run_here() -> None:
    assert {str(path.relative_to(ROOT / "examples")) for path in (ROOT / "examples").rglob("*.py")} == SHOWS.keys()


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_shows_what_it_promises(tmp_path: Path, name: str) -> None:
    # A copy: checking leaves a cache beside the configuration.
    examples = shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns(".*"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run(
        [sys.executable, str(examples / name)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    for words in SHOWS[name]:
        assert words in ran.stdout
