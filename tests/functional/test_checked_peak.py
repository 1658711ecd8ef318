"""A check counts the peak of jobs with `gpu-memory-gib`, and CL805 judges it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from clora_inspect import pipeline
from clora_inspect.exit_code import ExitCode
from clora_inspect.job.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import CommandLine

    from clora_inspect.job.job import Job
    from clora_inspect.job.plan import JobPlan

SMALL = (
    "set.model = { num_layers = 2, hidden_size = 64, ffn_hidden_size = 128, num_attention_heads = 4, "
    "num_query_groups = 2, vocab_size = 512 }"
)


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what configures one small job with the keys that it is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)

    def write(keys: str) -> None:
        head = f'check.require-snapshot = false\ncheck.select = ["CL805"]\n[jobs.tuned]\nmodel = "llama3-8b"\n{SMALL}\n'
        (tmp_path / "clora-inspect.toml").write_text(head + keys)

    return write


@pytest.mark.parametrize(
    ("gib", "length", "findings"),
    [
        # Weights alone take less than a MiB.
        (0.3, 64, []),
        (0.3, 65536, ["error: a rank of stage 0 needs 0.9 GiB at its peak, and the GPU has 0.3 GiB"]),
        (
            0.95,
            65536,
            [
                (
                    "warning: a rank of stage 0 needs 0.9 GiB at its peak, and the GPU has 0.95 GiB, of which "
                    "headroom = 0.1 leaves 0.1 for fragmentation, CUDA and NCCL"
                )
            ],
        ),
        (2, 65536, []),
    ],
    ids=["short rows", "too large", "into the headroom", "large GPU"],
)
def test_the_peak_of_the_workload_is_judged(
    clora_inspect: CommandLine, configure: Callable[[str], None], gib: float, length: int, findings: list[str]
) -> None:
    configure(f"gpu-memory-gib = {gib}\nworkload = {{ seq_length = {length} }}")
    for _ in range(2):  # the second time from the cache
        found = json.loads(clora_inspect("check", "-f", "json").out)["findings"]
        assert [f"{each['severity']}: {each['message']}" for each in found] == findings


def test_a_peak_that_cannot_be_counted_is_a_warning_and_weights_are_judged(
    clora_inspect: CommandLine, configure: Callable[[str], None]
) -> None:
    configure("gpu-memory-gib = 0.001\nlayouts.three = { cp = 3 }")
    for _ in range(2):  # the second time from the cache
        too_large, uncounted = json.loads(clora_inspect("check", "-f", "json").out)["findings"]
        assert "for weights, gradients and optimizer states alone, and the GPU has 0.001 GiB" in too_large["message"]
        assert too_large["severity"] == "error"
        assert uncounted["severity"] == "warning"
        assert uncounted["message"].startswith(
            "the peak was not counted, and weights alone are judged: seq_length = 4096"
        )


def test_nothing_is_counted_for_other_jobs(
    clora_inspect: CommandLine, configure: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    workloads: list[Workload | None] = []
    plan_job = pipeline.plan_job

    def planned(job: Job, workload: Workload | None = None) -> JobPlan:
        workloads.append(workload)
        return plan_job(job, workload)

    monkeypatch.setattr(pipeline, "plan_job", planned)
    for keys in ("workload = { seq_length = 64 }", "gpu-memory-gib = 80\nworkload = { seq_length = 64 }"):
        configure(keys)
        assert clora_inspect("check").status == ExitCode.OK
    assert workloads == [None, Workload(seq_length=64)]
