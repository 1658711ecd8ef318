"""The search gives the answer of brute force, and measures less."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from spaces import DENSE, EXPERTS, LORA, Space

from clora import CanonicalLoRA
from clora.errors import CloraError
from clora_inspect.fit.candidates import Batch, Candidate, Refused
from clora_inspect.fit.estimate import Estimate, Estimator
from clora_inspect.fit.measure import key_of
from clora_inspect.fit.search import Fit, Question, _Search, fit
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.workload import Workload

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


@dataclasses.dataclass
class Known:
    """A space, and what brute force says of it: the estimate of each candidate, cheapest first."""

    space: Space
    ordered: list[Estimate]
    measured: int

    @property
    def peaks(self) -> list[int]:
        return sorted(each.peak_bytes for each in self.ordered)

    def fitting(self, limit: int) -> list[Estimate]:
        return [each for each in self.ordered if each.peak_bytes <= limit]

    def estimate(self, candidate: Candidate) -> Estimate:
        return next(each for each in self.ordered if each.candidate == candidate)

    def search(self, limit: int, rows: int | None, own: Candidate | str = "not asked for") -> Fit:
        question = Question(batch=self.space.batch, limit_bytes=limit, workload=self.space.workload, rows=rows)
        return _Search(question, self.space.candidates, self.space.measurements(), Refused()).result(own)


def _brute_force(space: Space) -> Known:
    everything = space.measurements()
    with space.ready():
        # Not all can be built: gated delta nets know no cp.
        found = [(each, everything.estimator(each)) for each in space.candidates]
        exact = [known.estimate(each) for each, known in found if isinstance(known, Estimator)]
    number = {each: index for index, each in enumerate(space.candidates)}
    ordered = sorted(exact, key=lambda each: (each.seconds, number[each.candidate]))
    return Known(space, ordered, everything.count)


@pytest.fixture(scope="module")
def dense() -> Known:
    return _brute_force(Space("llama3-8b", DENSE, 4))


def _agrees_with_brute_force(known: Known) -> None:
    _bounds_are_below(known)
    peaks = known.peaks
    for limit in (peaks[0] - 1, peaks[len(peaks) // 8], peaks[len(peaks) // 2], peaks[-1]):
        fitting = known.fitting(limit)
        everywhere = known.search(limit, None)
        assert list(everywhere.fitting) == fitting
        assert everywhere.not_looked_at == 0
        assert everywhere.smallest is not None
        assert everywhere.smallest.peak_bytes == peaks[0]
        few = known.search(limit, 3)
        assert list(few.fitting) == fitting[:3]
        assert few.candidates >= len(peaks)
        if limit == peaks[-1]:
            assert everywhere.candidates == len(peaks)
            assert few.measured < known.measured


def _bounds_are_below(known: Known) -> None:
    bounded = known.space.measurements()
    assert bounded.bound(known.space.candidates) == {}
    for exact in known.ordered:
        least = bounded.least(exact.candidate)
        assert least.seconds(exact.candidate) <= exact.seconds, exact.candidate
        assert least.least_bytes(exact.candidate) <= exact.peak_bytes, exact.candidate


def test_the_cheapest_are_those_of_brute_force(dense: Known) -> None:
    _agrees_with_brute_force(dense)


def test_the_cheapest_of_a_mixture_are_those_of_brute_force() -> None:
    _agrees_with_brute_force(_brute_force(Space("qwen3-30b-a3b", EXPERTS, 2, settings=("none", "full"))))


def test_layers_with_equal_splits_are_measured_once(dense: Known) -> None:
    assert dense.measured == len({key_of(each.candidate) for each in dense.ordered}) < len(dense.ordered)


@pytest.mark.nightly
@pytest.mark.parametrize(("model", "fields", "gpus", "settings"), MORE_SPACES.values(), ids=MORE_SPACES)
def test_the_cheapest_of_many_architectures_are_those_of_brute_force(
    model: str, fields: dict[str, Any], gpus: int, settings: tuple[str, ...]
) -> None:
    # A LoRA rank that every tp divides.
    lora = CanonicalLoRA(dim=16)
    space = Space(model, fields, gpus, settings=settings, seq_length=1024, lora=lora)
    known = _brute_force(space)
    # Layers that cannot be measured are tried again.
    with space.ready():
        _agrees_with_brute_force(known)


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


def test_the_smallest_change_differs_in_the_fewest_options_and_fits(dense: Known) -> None:
    asked = Candidate(Layout(etp=1, world_size=4), 1, "none")
    own, peaks = dense.estimate(asked), dense.peaks
    assert dense.search(own.peak_bytes, 1, asked).smallest_change is None
    for limit in (own.peak_bytes - 1, peaks[0], (peaks[0] + own.peak_bytes) // 2):
        found = dense.search(limit, 1, asked)
        fitting = dense.fitting(limit)
        fewest = min(len(each.candidate.changes(asked)) for each in fitting)
        alike = [each for each in fitting if len(each.candidate.changes(asked)) == fewest]
        assert found.own == own
        assert len(_changes(found)) == fewest >= 1
        assert found.smallest_change == alike[0]
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


def test_where_nothing_fits_it_is_said_what_helps(dense: Known) -> None:
    least = dense.peaks[0]
    space = Space("llama3-8b", DENSE, 2)
    question = Question(batch=space.batch, limit_bytes=least, workload=space.workload)
    found = fit(space.job, question)
    assert found.fitting == ()
    assert found.too_large == found.candidates
    assert found.smallest is not None
    assert found.smallest.peak_bytes > least
    # What fits on twice the GPUs is what brute force finds there.
    assert found.on_more is not None
    assert found.on_more == dense.estimate(found.on_more.candidate)
    assert found.on_more.peak_bytes == least
    assert dense.search(least - 1, None).smallest == found.on_more


def test_recomputation_trades_memory_for_operations(dense: Known) -> None:
    layout = Layout(tp=1, pp=4, etp=1, world_size=4)
    none, mlp, full = (
        dense.estimate(Candidate(layout, 1, recompute)) for recompute in ("none", "selective:mlp", "full")
    )
    assert full.peak_bytes < mlp.peak_bytes < none.peak_bytes
    assert full.seconds > mlp.seconds > none.seconds
    assert none.bubble == pytest.approx(3 / (8 + 3))


def test_a_job_without_any_layout_is_refused_with_the_reasons() -> None:
    with pytest.raises(CloraError, match=r"cannot be spread over 64 GPUs.*dp and the micro-batch"):
        fit(JOB, Question(batch=Batch(gpus=64, seq_length=1, rows=1), limit_bytes=1 << 40))


def test_a_layout_that_takes_other_gpus_is_said_to() -> None:
    job = dataclasses.replace(JOB, layout=Layout(tp=4))
    found = fit(job, Question(batch=BATCH, limit_bytes=1 << 40, rows=1))
    assert found.own is None
    assert found.own_fault == "it takes a multiple of 4 GPUs"
