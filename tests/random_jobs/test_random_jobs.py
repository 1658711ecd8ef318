"""Random jobs: any architecture on any layout with any LoRA is planned right, or refused in words.

`make check` tries the same 150 jobs every time, `make nightly` 2,000 others. To try those of a
night again: CLORA_RANDOM_SEED=N pytest -m nightly tests/random_jobs.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from outcome import RIGHT, outcome
from proved import is_proved
from random_job import RandomJob, random_jobs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOBS, JOBS_PROVED = 150, 6
NIGHTLY_JOBS, NIGHTLY_PARTS = 2000, 4
NIGHTLY_PROVED, NIGHTLY_PROVED_ON_TWO = 200, 40

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


def tried(
    try_job: Callable[[RandomJob], str], count: int, *, of: int | None, record: Callable[[str, object], None]
) -> Counter[str]:
    """Try `count` random jobs and count the outcomes, with the seed `of` or always the same ones."""
    outcomes: Counter[str] = Counter()
    # Shrinking repeats a failing job many times; it is worth it only for a person who waits.
    phases = [Phase.generate] if of is None else [Phase.generate, Phase.shrink]

    @settings(max_examples=count, derandomize=of is None, phases=phases, **COMMON)
    @given(random_jobs())
    def run(random_job: RandomJob) -> None:
        outcomes[try_job(random_job)] += 1

    (run if of is None else seed(of)(run))()
    record("outcomes", dict(outcomes))
    return outcomes


def test_150_random_jobs_are_planned_right_or_refused(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seen = Counter[str]()

    def try_job(random_job: RandomJob) -> str:
        seen["jobs"] += 1
        return outcome(random_job, tmp_path, follow_findings=seen["jobs"] % 15 == 0)

    outcomes = tried(try_job, JOBS, of=None, record=record_property)
    # Otherwise most of the test would be about errors.
    assert outcomes[RIGHT] > outcomes.total() / 2, outcomes
    assert len(outcomes) > 2, "nothing is refused: the strategies no longer draw what users get wrong"


def test_some_random_jobs_run(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    outcomes = tried(lambda job: is_proved(job, tmp_path), JOBS_PROVED, of=None, record=record_property)
    assert outcomes[RIGHT] > outcomes.total() / 2, outcomes


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(NIGHTLY_PARTS))
def test_2000_random_jobs_are_planned_right_or_refused(
    tmp_path: Path, night: int, part: int, record_property: Callable[[str, object], None]
) -> None:
    count = NIGHTLY_JOBS // NIGHTLY_PARTS
    outcomes = tried(
        lambda job: outcome(job, tmp_path, follow_findings=True), count, of=night + part, record=record_property
    )
    assert outcomes[RIGHT] > outcomes.total() / 2, outcomes


@pytest.mark.nightly
@pytest.mark.parametrize(("count", "procs"), [(NIGHTLY_PROVED, 1), (NIGHTLY_PROVED_ON_TWO, 2)])
def test_many_random_jobs_run(
    tmp_path: Path, night: int, count: int, procs: int, record_property: Callable[[str, object], None]
) -> None:
    outcomes = tried(
        lambda job: is_proved(job, tmp_path, procs=procs), count, of=night + procs, record=record_property
    )
    assert outcomes[RIGHT] > outcomes.total() / 2, outcomes
