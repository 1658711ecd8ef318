"""A model that a user's function makes is proved as it is: in its own dtype, and proofs that it
cannot have are reported with a reason.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from clora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import torch
from torch import nn

class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8, dtype=torch.bfloat16)

    def forward(self, tokens, *_, **__):
        return self.linear(tokens.T[..., None].bfloat16().expand(-1, -1, 8))

class OtherForward(Half):
    def forward(self, tokens):
        return tokens

class Causal(nn.Module):
    def __init__(self, view):
        super().__init__()
        self.linear, self.view = nn.Linear(8, 8), view

    def forward(self, tokens, *_, **__):
        return self.view(self.linear(tokens[..., None].float().cumsum(1).div(1000).expand(-1, -1, 8)))

def logits():
    return Causal(lambda out: out)

def values():
    return Causal(lambda out: {"values": out[..., :1]})

def losses():
    return Causal(lambda out: out.mean(-1))

def pooled():
    return Causal(lambda out: out.mean(1))

class Exits(Half):
    def forward(self, tokens, *_, **__):
        raise SystemExit(0)

def exits():
    return Exits()

def half():
    return Half()

def other_forward():
    return OtherForward()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(SOURCE)
    return path


def _request(source: Path, function: str) -> Request:
    return Request(job=Job(model=f"{source}:{function}", lora=CanonicalLoRA(target_modules=["linear"])))


def test_its_own_dtype_is_used_and_proofs_that_it_cannot_have_are_skipped_with_a_reason(source: Path) -> None:
    report = verify(_request(source, "half"))
    proofs = {proof.proof: proof for proof in report.proofs}
    assert report.dtype == "bfloat16"
    assert proofs["merge"].bound == 6e-2
    assert (proofs["merge"].largest_error or 0) > 1e-4
    skipped = {name: proof.detail for name, proof in proofs.items() if proof.status is ProofStatus.SKIPPED}
    assert skipped.keys() == {"recompute", "dropout", "layout", "checkpoint", "export"}
    assert "a function makes its own config" in skipped["recompute"]
    assert "no sharded_state_dict" in skipped["checkpoint"]
    assert report.ok


def test_a_model_with_another_forward_is_told_how_it_is_called(source: Path) -> None:
    proofs = {proof.proof: proof for proof in verify(_request(source, "other_forward")).proofs}
    assert proofs["base-twice"].status is ProofStatus.FAILED
    assert "before anything is done to it: TypeError" in proofs["base-twice"].detail
    assert "tokens, positions, a mask and `labels=`" in proofs["base-twice"].detail


@pytest.mark.parametrize("function", ["logits", "values", "losses", "pooled"])
def test_tokens_are_found_in_the_output_or_it_cannot_be_read(source: Path, function: str) -> None:
    request = replace(_request(source, function), proofs=("causality",))
    _, causality = verify(request).proofs
    if function == "pooled":
        assert causality.status is ProofStatus.SKIPPED
        assert causality.detail.startswith("cannot read this output: for 1 row of 16 tokens it is [1, 8]")
    else:
        assert causality.status is ProofStatus.PASSED, causality


def test_a_forward_that_exits_ends_neither_the_command_nor_the_other_proofs(source: Path) -> None:
    proofs = {proof.proof: proof for proof in verify(_request(source, "exits")).proofs}
    assert proofs["base-twice"].status is ProofStatus.FAILED
    assert "before anything is done to it: SystemExit: 0" in proofs["base-twice"].detail
