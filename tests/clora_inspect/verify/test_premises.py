"""The two premises of all proofs: a base that equals itself, and placements on the job's own model,
which has layers that a small model does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verify_models import SMALL

from clora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.verify.implementation import by_name
from clora_inspect.verify.implementation.clora import Clora
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofResult, ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

RESTLESS = """
import torch
from torch import nn

class Restless(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, tokens, *_, **__):
        return self.linear(tokens.T[..., None].float().expand(-1, -1, 8)) + torch.rand(1)

def model():
    return Restless()
"""


class AlsoLayerTen(Clora):
    """Adapts layer 10 together with layer 1, like a pattern whose dot matches any character. A
    small model has no layer 10.
    """

    def apply(self, chunks: list[Any], lora: CanonicalLoRA) -> list[Any]:
        names = [*lora.target_modules]
        if any(name.startswith("decoder.layers.10.") for name, _ in chunks[0].named_modules()):
            names.append("*.layers.10.*.linear_proj")
        return super().apply(chunks, CanonicalLoRA(target_modules=names, dim=lora.dim, alpha=lora.alpha))


def _failed(request: Request) -> dict[str, ProofResult]:
    report = verify(request)
    return {proof.proof: proof for proof in report.proofs if proof.status is ProofStatus.FAILED}


def test_when_the_base_does_not_equal_itself_no_other_proof_is_run(tmp_path: Path) -> None:
    (tmp_path / "restless.py").write_text(RESTLESS)
    lora = CanonicalLoRA(target_modules=["linear"])
    report = verify(Request(job=Job(model=f"{tmp_path / 'restless.py'}:model", lora=lora)))
    _placements, first, *rest = report.proofs
    assert (first.proof, first.status) == ("base-twice", ProofStatus.FAILED)
    assert {proof.status for proof in rest} == {ProofStatus.SKIPPED}
    assert {proof.detail for proof in rest} == {"the base does not equal itself, so nothing can be compared with it"}


def test_a_fault_in_layer_ten_is_found_only_on_the_jobs_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_name, "Clora", AlsoLayerTen)
    lora = CanonicalLoRA(target_modules=["*.layers.1.*.linear_proj"])
    proofs = ("surgery", "zero-b", "liveness", "causality", "merge", "gradients", "export")
    job = Job(model="llama3-8b", lora=lora, model_overrides={**SMALL, "num_layers": 12})
    failed = _failed(Request(job=job, proofs=proofs))
    assert failed.keys() == {"placements"}
    assert failed["placements"].where == "decoder.layers.10.self_attention.linear_proj"
