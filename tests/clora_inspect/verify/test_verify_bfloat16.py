"""In bfloat16, as models are trained: everything is proved within wider bounds, which are stated, and real faults are still outside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from broken_surgeries import broken
from verify_models import asked, proved

from clora_inspect.layout import Layout
from clora_inspect.verify.dtypes import BOUNDS
from clora_inspect.verify.proofs import PROOFS
from clora_inspect.verify.worlds import one_rank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.verify.request import Asked

BOUNDED = {"merge": 1.0, "gradients": 10.0, "recompute": 1.0, "causality": 0.1}
"""Proof -> its bound, in units of the dtype's."""


@pytest.fixture(scope="module", autouse=True)
def _one_rank() -> Iterator[None]:
    with one_rank(Layout(), "cpu"):
        yield


def _half(model: str) -> Asked:
    what = asked(model)
    return msgspec.structs.replace(what, definition=what.definition.override({"params_dtype": "bfloat16"}))


@pytest.mark.parametrize("model", ["dense", "experts"])
def test_everything_is_proved_within_stated_bounds(model: str) -> None:
    answers = {proof.name: proved(proof.name, _half(model)) for proof in PROOFS}
    assert {name for name, answer in answers.items() if answer.status != "passed"} == {"layout"}
    assert answers["zero-b"].largest_error == 0.0
    for name, times in BOUNDED.items():
        assert answers[name].bound == pytest.approx(times * BOUNDS["bfloat16"]), name
        assert (answers[name].largest_error or 0.0) < 0.5 * times * BOUNDS["bfloat16"], name
    assert (answers["merge"].largest_error or 0.0) > BOUNDS["float32"]


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
