"""The proofs on CUDA with real Transformer Engine; skipped with a reason where there is none."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from clora_inspect.job.job import Job
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from clora_inspect.verify.report import VerifyReport


def _no_gpu() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return "there is no CUDA GPU"
    return None if importlib.util.find_spec("transformer_engine_torch") else "Transformer Engine is not installed"


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["llama3-8b", "qwen3-30b-a3b", "deepseek-v2-lite"])
def test_a_small_model_is_proved_on_a_gpu(model: str) -> None:
    if reason := _no_gpu():
        pytest.skip(reason)
    report: VerifyReport = verify(Request(job=Job(model=model), device="cuda", dtype="bfloat16"))
    assert [proof for proof in report.proofs if proof.status is ProofStatus.FAILED] == []
    assert report.proofs[0].proof == "placements"
    assert report.ok
