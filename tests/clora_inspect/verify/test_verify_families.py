"""`verify` proves a small model of every family of Hugging Face: one for each kind of layer in
every run, and all of them at night.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from family_configs import small_config

from clora.families import families
from clora_inspect.job.job import Job
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from pathlib import Path

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "norms behind, none before, over all heads": ("olmo2", {}),
    "layers without rotary embeddings": ("smollm3", {}),
    "a router with a bias on softmax scores": ("ernie4_5_moe", {}),
    "a bias on the output projection": ("seed_oss", {"attention_out_bias": True}),
    "scores on the inputs of experts, L2 norms": ("llama4_text", {"interleave_moe_layer_step": 2}),
    "factors": ("granite", {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    "keys that an indexer chooses": ("deepseek_v32", {}),
}
IN_EVERY_RUN = ("surgery", "zero-b", "merge", "gradients")
NO_REASON = {
    "one rank has no layout to compare; --procs N runs the job's layout on N local processes",
    "the job's LoRA has no dropout",
}


def config_file(folder: Path, model_type: str, fields: dict[str, Any]) -> str:
    (folder / "config.json").write_text(json.dumps({**small_config(model_type), **fields}))
    return str(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_layers_of_its_own_is_proved(kind: str, tmp_path: Path) -> None:
    report = verify(Request(job=Job(model=config_file(tmp_path, *KINDS[kind])), proofs=IN_EVERY_RUN))
    assert [proof for proof in report.proofs if proof.status != ProofStatus.PASSED] == []


@pytest.mark.nightly
@pytest.mark.parametrize("model_type", families())
def test_every_family_is_proved(model_type: str, tmp_path: Path) -> None:
    # By default it has biases on all linears, which no released model of the family has.
    fields = {"use_bias": False} if model_type == "bailing_moe" else {}
    report = verify(Request(job=Job(model=config_file(tmp_path, model_type, fields))))
    assert report.ok
    not_run = {proof.proof: proof.detail for proof in report.proofs if proof.status == ProofStatus.SKIPPED}
    # Experts in one parameter, and fused gate and up, have no linears to export to.
    assert {detail for proof, detail in not_run.items() if proof != "export"} <= NO_REASON
