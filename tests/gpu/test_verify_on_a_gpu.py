"""The proofs of `clora-inspect verify --device cuda`, with real Transformer Engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from clora_inspect.job.job import Job
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.verify.report import VerifyReport

pytestmark = pytest.mark.gpu

CASES: list[tuple[str, Literal["float32", "bfloat16"]]] = [
    ("llama3-8b", "bfloat16"),
    ("qwen3-30b-a3b", "bfloat16"),
    ("deepseek-v2-lite", "bfloat16"),
    ("gpt-oss-20b", "bfloat16"),
    ("llama3-8b", "float32"),
    ("qwen3-30b-a3b", "float32"),
    ("deepseek-v2-lite", "float32"),
]


@pytest.mark.parametrize(("model", "dtype"), CASES)
def test_a_small_model_is_proved_on_a_gpu(
    model: str, dtype: Literal["float32", "bfloat16"], proved: Callable[[str], None]
) -> None:
    report: VerifyReport = verify(Request(job=Job(model=model), device="cuda", dtype=dtype))
    assert [proof for proof in report.proofs if proof.status is ProofStatus.FAILED] == []
    assert report.proofs[0].proof == "placements"
    assert report.ok
    passed = [proof.proof for proof in report.proofs if proof.status is ProofStatus.PASSED]
    proved(f"verify of {model}, {dtype}: {len(passed)} proofs pass ({', '.join(passed)})")
