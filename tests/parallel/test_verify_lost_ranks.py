"""`verify` on ranks that the machine ends: one sentence, exit status 3, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clora_inspect.exit_code import ExitCode

if sys.platform != "linux":
    pytest.skip("needs SIGKILL and limits of memory", allow_module_level=True)

KILLED = """
import os, signal
from megatron.core import parallel_state
from torch import nn

class Killed(nn.Linear):
    def forward(self, tokens, *_, **__):
        if parallel_state.get_tensor_model_parallel_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(tokens[..., None].float().expand(-1, -1, 8))

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = Killed(8, 8)

    def forward(self, *inputs, **named):
        return self.linear(*inputs, **named)

def model():
    return Model()
"""
"""The kernel kills a rank that takes too much memory. This one kills itself, at a known moment."""

LIMIT_KIB = 1_000_000
"""Address space that Python with torch does not fit in, but Python alone does."""


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("unlimited", "Rank 1 of 2 died (signal SIGKILL); with too little memory the system kills processes."),
        (str(LIMIT_KIB), "there is not enough memory"),
    ],
    ids=["killed", "no memory"],
)
def test_a_rank_that_the_machine_ends(tmp_path: Path, limit: str, said: str) -> None:
    (tmp_path / "models.py").write_text(KILLED)
    # The path of a socket has at most 108 characters, and pytest's folders take most of them.
    with tempfile.TemporaryDirectory() as temporary:
        ran = _verify(tmp_path, temporary, limit)
        assert ran.returncode == ExitCode.BUILD, ran
        assert said in ran.stderr
        assert ran.stderr.startswith("error: ")
        assert ran.stderr.count("\n") == 1
        assert len(ran.stderr) < 300
        assert ran.stdout == ""
        assert [path.name for path in Path(temporary).iterdir() if path.name.startswith("clora-inspect-")] == []


def _verify(tmp_path: Path, temporary: str, limit: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clora_inspect", "verify", "models.py:model", "--tp", "2", "--procs", "2"]
    return subprocess.run(
        [
            "/bin/sh",
            "-c",
            f'ulimit -v {limit}; exec "$@"',
            "sh",
            *command,
            "--target-modules",
            "linear",
            "--no-progress",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": temporary, "OMP_NUM_THREADS": "1"},
    )
