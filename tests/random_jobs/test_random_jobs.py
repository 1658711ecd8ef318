"""Random jobs: any architecture on any layout with any LoRA is planned right, or refused in words.

`make check` tries the same 150 jobs every time, `make nightly` 2,000 others. To try those of a
night again: CLORA_RANDOM_SEED=N pytest -m nightly tests/random_jobs.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from configured import can_be_written, write_project
from hypothesis import HealthCheck, Phase, given, seed, settings
from outcome import RIGHT, outcome
from proved import is_proved
from random_job import RandomJob, random_jobs

from clora.errors import CloraError
from clora_inspect.cli import main
from clora_inspect.pipeline import plan_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOBS, JOBS_ACCEPTED, JOBS_PROVED = 150, 6, 8
NIGHTLY_JOBS, NIGHTLY_PARTS = 2000, 4
NIGHTLY_PROVED, NIGHTLY_PROVED_ON_TWO = 200, 40

CHEAP_PROOFS = ("zero-b", "liveness")

COMMON: dict[str, Any] = {
    "deadline": None,
    # No examples of earlier runs: every machine tries the same jobs.
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}


@pytest.fixture(scope="module")
def night() -> int:
    """Return the seed of all nightly tests, and print it."""
    number = int(os.environ.get("CLORA_RANDOM_SEED") or secrets.randbits(32))
    print(f"CLORA_RANDOM_SEED={number}")  # noqa: T201 - pytest shows it with a failure
    return number


def tried(try_job: Callable[[RandomJob], str], count: int, *, of: int | None = None) -> Counter[str]:
    """Try `count` random jobs, and print and return how often each outcome came.

    The jobs are those of the seed `of`, or always the same ones.
    """
    outcomes: Counter[str] = Counter()
    # Shrinking repeats a failing job many times; it is worth it only for a person who waits.
    phases = [Phase.generate] if of is None else [Phase.generate, Phase.shrink]

    @settings(max_examples=count, derandomize=of is None, phases=phases, **COMMON)
    @given(random_jobs())
    def run(random_job: RandomJob) -> None:
        outcomes[try_job(random_job)] += 1

    (run if of is None else seed(of)(run))()
    print(f"{outcomes[RIGHT]} of {outcomes.total()} jobs are planned: {dict(outcomes)}")  # noqa: T201 - with -rP
    return outcomes


def test_150_random_jobs_are_planned_right_or_refused(tmp_path: Path) -> None:
    def try_job(random_job: RandomJob) -> str:
        # A few of them, chosen by what they are: a job that fails is tried again.
        is_chosen = crc32(repr(random_job).encode()) % 15 == 0
        return outcome(random_job, tmp_path, follow_findings=is_chosen)

    outcomes = tried(try_job, JOBS)
    # Otherwise most of the test would be about errors.
    assert outcomes[RIGHT] > outcomes.total() / 2, outcomes
    assert len(outcomes) > 2, "nothing is refused: the strategies no longer draw what users get wrong"


def test_accepted_jobs_are_clean_and_every_change_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs: dict[str, RandomJob] = {}

    def keep(random_job: RandomJob) -> str:
        if len(jobs) == JOBS_ACCEPTED or not can_be_written(random_job):
            return "left out"
        try:
            plan = plan_job(random_job.job(tmp_path))
        except CloraError as error:
            return type(error).__name__
        if plan.totals.placements:
            jobs[f"job{len(jobs)}"] = random_job
        return RIGHT

    tried(keep, 3 * JOBS_ACCEPTED)
    assert len(jobs) == JOBS_ACCEPTED
    write_project(tmp_path, jobs)
    assert main(["snapshot", "accept", "-C", str(tmp_path), "-q"]) == 0
    check = ["check", "-C", str(tmp_path), "--select", "CL7", "--fail-on", "info", "-f", "json", "--no-progress"]
    capsys.readouterr()
    assert main(check) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    write_project(
        tmp_path, {name: job.changed(lora={**job.lora, "dim": 2 * job.lora["dim"]}) for name, job in jobs.items()}
    )
    assert main(check) == 1
    changed = json.loads(capsys.readouterr().out)
    assert {finding["job"] for finding in changed["findings"]} == set(jobs)


def test_some_random_jobs_run(tmp_path: Path) -> None:
    outcomes = tried(lambda job: is_proved(job, tmp_path, proofs=CHEAP_PROOFS), JOBS_PROVED)
    assert outcomes[RIGHT] > outcomes.total() / 2, outcomes


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(NIGHTLY_PARTS))
def test_2000_random_jobs_are_planned_right_or_refused(tmp_path: Path, night: int, part: int) -> None:
    count = NIGHTLY_JOBS // NIGHTLY_PARTS
    outcomes = tried(lambda job: outcome(job, tmp_path, follow_findings=True), count, of=night + part)
    assert outcomes[RIGHT] > outcomes.total() / 2, outcomes


@pytest.mark.nightly
@pytest.mark.parametrize(("count", "procs"), [(NIGHTLY_PROVED, 1), (NIGHTLY_PROVED_ON_TWO, 2)])
def test_many_random_jobs_run(tmp_path: Path, night: int, count: int, procs: int) -> None:
    outcomes = tried(lambda job: is_proved(job, tmp_path, procs=procs), count, of=night + procs)
    assert outcomes[RIGHT] > outcomes.total() / 2, outcomes
