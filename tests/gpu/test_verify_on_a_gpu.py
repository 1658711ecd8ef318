"""The proofs of `clora-inspect verify --device cuda`, with real Transformer Engine."""

from __future__ import annotations

import os
import subprocess
import sys
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


USED_BEFORE = """
import torch
factor = torch.ones(64, 64, device="cuda")
(factor @ factor).sum().item()
from clora.errors import DeviceError
from clora_inspect.job.job import Job
from clora_inspect.verify.job import verify
from clora_inspect.verify.request import Request
try:
    verify(Request(job=Job(model="llama3-8b"), device="cuda", dtype="float32"))
except DeviceError as error:
    print(error)
"""


def test_a_proof_in_fp32_is_refused_where_products_are_not_exact(proved: Callable[[str], None]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NVIDIA_TF32_OVERRIDE"}
    done = subprocess.run(
        [sys.executable, "-c", USED_BEFORE], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert "cuBLAS multiplies in TF32" in done.stdout, done.stderr[-2000:]
    proved("a process that multiplied on its GPU before is refused a proof in fp32, whose products would be in TF32")
