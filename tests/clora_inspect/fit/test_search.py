"""The search gives the answer of brute force, and measures less."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from spaces import DENSE, EXPERTS, LORA, Space, estimator

from clora.errors import CloraError
from clora_inspect.fit.candidates import Batch, Candidate, Refused
from clora_inspect.fit.estimate import Estimate
from clora_inspect.fit.measure import key_of
from clora_inspect.fit.search import Fit, Question, _Search, fit
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.workload import Workload

SPACES = {
    "dense": ("llama3-8b", DENSE, 4, ()),
    "experts": ("qwen3-30b-a3b", EXPERTS, 2, ("none", "full")),
}
MORE_SPACES: dict[str, tuple[str, dict[str, Any], int, tuple[str, ...]]] = {
    "experts on 8": ("qwen3-30b-a3b", {"num_layers": 8}, 8, ()),
    "latent attention": ("deepseek-v2-lite", {"num_layers": 6}, 4, ()),
    "more tokens": ("deepseek-v3", {"num_layers": 6}, 4, ()),
    "biases": ("gpt-oss-20b", {"num_layers": 4}, 4, ()),
    "state spaces": ("nemotron-h-8b", {"num_layers": 12}, 8, ()),
    "delta nets": ("qwen3-next-80b-a3b", {"num_layers": 8}, 4, ()),
    "windows": ("gemma2-9b", {"num_layers": 6}, 8, ()),
    "six GPUs": ("llama3-8b", {**DENSE, "num_attention_heads": 12, "num_query_groups": 6, "num_layers": 6}, 6, ()),
}


def _agrees_with_brute_force(space: Space) -> None:
    everything = space.measurements()
    with space.ready():
        exact = {each: estimator(everything, each).estimate(each) for each in space.candidates}
        _bounds_are_below(space, exact)
        ordered = sorted(exact.values(), key=lambda each: (each.seconds, space.candidates.index(each.candidate)))
        peaks = sorted(each.peak_bytes for each in ordered)
        for limit in (peaks[0] - 1, peaks[len(peaks) // 8], peaks[len(peaks) // 2], peaks[-1]):
            fitting = [each for each in ordered if each.peak_bytes <= limit]
            everywhere = _search(space, limit, None)
            assert list(everywhere.fitting) == fitting
            assert everywhere.not_looked_at == 0
            assert everywhere.smallest is not None
            assert everywhere.smallest.peak_bytes == peaks[0]
            few = _search(space, limit, 3)
            assert list(few.fitting) == fitting[:3]
            assert few.candidates == len(space.candidates)
            if limit == peaks[-1]:
                assert few.measured < everything.count


def _bounds_are_below(space: Space, exact: dict[Candidate, Estimate]) -> None:
    bounded = space.measurements()
    assert bounded.bound(space.candidates) == {}
    for candidate, estimate in exact.items():
        least = bounded.least(candidate)
        assert least.seconds(candidate) <= estimate.seconds, candidate
        assert least.least_bytes(candidate) <= estimate.peak_bytes, candidate


def _search(space: Space, limit: int, rows: int | None) -> Fit:
    question = Question(batch=space.batch, limit_bytes=limit, workload=space.workload, rows=rows)
    return _Search(question, space.candidates, space.measurements(), Refused()).result("not asked for")


@pytest.mark.parametrize(("model", "fields", "gpus", "settings"), SPACES.values(), ids=SPACES)
def test_the_cheapest_are_those_of_brute_force(
    model: str, fields: dict[str, Any], gpus: int, settings: tuple[str, ...]
) -> None:
    _agrees_with_brute_force(Space(model, fields, gpus, settings=settings))


@pytest.mark.nightly
@pytest.mark.parametrize(("model", "fields", "gpus", "settings"), MORE_SPACES.values(), ids=MORE_SPACES)
def test_the_cheapest_of_many_architectures_are_those_of_brute_force(
    model: str, fields: dict[str, Any], gpus: int, settings: tuple[str, ...]
) -> None:
    _agrees_with_brute_force(Space(model, fields, gpus, settings=settings, seq_length=1024))


def test_more_gpus_need_no_more_measurements_than_their_divisors() -> None:
    job = Job(model="llama3-8b", model_overrides=DENSE, lora=LORA)
    few, many = (
        fit(job, Question(batch=Batch(gpus=gpus, seq_length=256, rows=gpus), limit_bytes=1 << 40, rows=3))
        for gpus in (4, 256)
    )
    assert many.candidates > few.candidates
    assert many.measured <= few.measured + 3


JOB = Job(model="llama3-8b", model_overrides=DENSE, lora=LORA)
BATCH = Batch(gpus=2, seq_length=64, rows=2)


def _changes(found: Fit) -> dict[str, str]:
    assert found.own is not None
    assert found.smallest_change is not None
    return found.smallest_change.candidate.changes(found.own.candidate)


def test_the_smallest_change_differs_in_the_fewest_options_and_fits() -> None:
    everything = fit(JOB, Question(batch=BATCH, limit_bytes=1 << 40))
    assert everything.too_large == 0
    assert everything.smallest_change is None
    own = everything.own
    assert own is not None
    assert own.candidate == Candidate(Layout(etp=1, world_size=2), 1, "none")
    peaks = sorted({each.peak_bytes for each in everything.fitting})
    for limit in (own.peak_bytes - 1, peaks[0], (peaks[0] + own.peak_bytes) // 2):
        found = fit(JOB, Question(batch=BATCH, limit_bytes=limit, rows=1))
        fitting = [each for each in everything.fitting if each.peak_bytes <= limit]
        fewest = min(len(each.candidate.changes(own.candidate)) for each in fitting)
        alike = [each for each in fitting if len(each.candidate.changes(own.candidate)) == fewest]
        assert len(_changes(found)) == fewest >= 1
        assert found.smallest_change == min(alike, key=lambda each: each.seconds)
        assert found.fitting[0] == fitting[0]


def test_the_jobs_own_settings_are_where_changes_begin() -> None:
    recomputing = dataclasses.replace(JOB, model_overrides={**DENSE, **recompute_fields("full")})
    workload = Workload(seq_length=64, micro_batch_size=2)
    batch = Batch(gpus=2, seq_length=64, rows=4)
    found = fit(recomputing, Question(batch=batch, limit_bytes=1 << 40, workload=workload, rows=1))
    assert found.own is not None
    assert found.own.candidate == Candidate(Layout(etp=1, world_size=2), 2, "full")
    # All other settings are tried, whatever the job says.
    plain = fit(JOB, Question(batch=batch, limit_bytes=1 << 40, rows=1))
    assert found.fitting == plain.fitting
    tight = fit(recomputing, Question(batch=batch, limit_bytes=found.own.peak_bytes - 1, workload=workload, rows=1))
    assert _changes(tight) == {"--micro-batch-size": "1"}


def test_where_nothing_fits_it_is_said_what_helps() -> None:
    everything = fit(JOB, Question(batch=BATCH, limit_bytes=1 << 40))
    least = min(each.peak_bytes for each in everything.fitting)
    nothing = fit(JOB, Question(batch=BATCH, limit_bytes=least - 1))
    assert nothing.fitting == ()
    assert nothing.too_large == everything.candidates
    assert nothing.smallest is not None
    assert nothing.smallest.peak_bytes == least
    more = nothing.on_more
    assert more is not None
    assert more.candidate.layout.world == 4
    assert more.peak_bytes < least
    again = fit(JOB, Question(batch=Batch(gpus=4, seq_length=64, rows=4), limit_bytes=least - 1))
    assert more in again.fitting
    # Not even the workspace fits.
    assert fit(JOB, Question(batch=BATCH, limit_bytes=1)).on_more is None


def test_recomputation_trades_memory_for_operations() -> None:
    space = Space("llama3-8b", DENSE, 2)
    layout = Layout(tp=1, pp=2, etp=1, world_size=2)
    measurements = space.measurements()
    with space.ready():
        none, mlp, full = (
            estimator(measurements, candidate).estimate(candidate)
            for candidate in (Candidate(layout, 1, recompute) for recompute in ("none", "selective:mlp", "full"))
        )
    assert full.peak_bytes < mlp.peak_bytes < none.peak_bytes
    assert full.seconds > mlp.seconds > none.seconds
    assert none.bubble == pytest.approx(1 / 5)


def test_layers_with_equal_splits_are_measured_once() -> None:
    space = Space("llama3-8b", DENSE, 4)
    measurements = space.measurements()
    with space.ready():
        for each in space.candidates:
            measurements.estimator(each)
    assert measurements.count == len({key_of(each) for each in space.candidates}) < len(space.candidates)


def test_a_job_without_any_layout_is_refused_with_the_reasons() -> None:
    with pytest.raises(CloraError, match=r"cannot be spread over 64 GPUs.*dp and the micro-batch"):
        fit(JOB, Question(batch=Batch(gpus=64, seq_length=1, rows=1), limit_bytes=1 << 40))


def test_a_layout_that_takes_other_gpus_is_said_to() -> None:
    job = dataclasses.replace(JOB, layout=Layout(tp=4))
    found = fit(job, Question(batch=BATCH, limit_bytes=1 << 40, rows=1))
    assert found.own is None
    assert found.own_fault == "it takes a multiple of 4 GPUs"
