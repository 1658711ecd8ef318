"""In bfloat16, in which models are trained, every proof passes within its wider bound, and real
faults are still outside of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from broken_surgeries import broken
from verify_models import proved, task_of

from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.verify.job import verify
from clora_inspect.verify.model.dtypes import BOUNDS
from clora_inspect.verify.proof_table import PROOFS
from clora_inspect.verify.ranks.worlds import one_rank
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.verify.report import ProofResult
    from clora_inspect.verify.task import ProofTask

BOUNDED = {"merge": 1.0, "gradients": 10.0, "recompute": 1.0, "causality": 0.1}
"""Proof -> its bound, in units of the dtype's."""


@pytest.fixture
def _one_rank() -> Iterator[None]:
    with one_rank(Layout(), "cpu"):
        yield


def _half(model: str) -> ProofTask:
    what = task_of(model)
    return msgspec.structs.replace(what, definition=what.definition.override({"params_dtype": "bfloat16"}))


@pytest.mark.usefixtures("_one_rank")
@pytest.mark.parametrize("model", ["short", "experts"])
def test_everything_is_proved_within_stated_bounds(model: str) -> None:
    answers = {proof.name: proved(proof.name, _half(model)) for proof in PROOFS}
    # One rank has no layout to compare, and these adapters have no dropout.
    assert {name for name, answer in answers.items() if answer.status != "passed"} == {"layout", "dropout"}
    assert answers["zero-b"].largest_error == 0.0
    for name, times in BOUNDED.items():
        assert answers[name].bound == pytest.approx(times * BOUNDS["bfloat16"]), name
        assert (answers[name].largest_error or 0.0) < 0.5 * times * BOUNDS["bfloat16"], name
    assert (answers["merge"].largest_error or 0.0) > BOUNDS["float32"]


@pytest.mark.usefixtures("_one_rank")
@pytest.mark.parametrize(
    ("fault", "proof", "model"),
    [
        ("swapped k and v", "merge", "dense"),
        ("scale is left out", "merge", "experts"),
        ("interleaved one group off", "merge", "dense"),
        ("gradient is doubled", "gradients", "experts"),
        ("later tokens leak", "causality", "dense"),
    ],
)
def test_a_fault_is_outside_the_bounds_of_bfloat16_too(fault: str, proof: str, model: str) -> None:
    with broken(fault) as implementation:
        answer = proved(proof, _half(model), implementation)
    assert answer.status == "failed", answer
    assert answer.where, answer


def _verified(model: str, *proofs: str) -> dict[str, ProofResult]:
    report = verify(Request(job=Job(model=model), dtype="bfloat16", proofs=proofs))
    return {proof.proof: proof for proof in report.proofs}


def test_a_router_repeats_its_choices_where_rounding_would_turn_them() -> None:
    """Otherwise its two runs would differ by 0.18 of the largest output."""
    proofs = _verified("gpt-oss-20b", "merge", "gradients")
    assert {proof.status for proof in proofs.values()} == {ProofStatus.PASSED}
    assert (proofs["merge"].largest_error or 1.0) < 0.03
    assert "routers choose in both what they chose in the first" in proofs["merge"].detail


def test_a_model_that_amplifies_rounding_is_reported_as_not_run() -> None:
    merge = _verified("qwen3-next-80b-a3b", "merge")["merge"]
    assert merge.status is ProofStatus.SKIPPED
    assert merge.detail.startswith("in bfloat16 it cannot be told")
    assert "--dtype float32 proves it" in merge.detail
