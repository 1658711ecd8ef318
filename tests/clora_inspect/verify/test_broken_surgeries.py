"""Every broken surgery is found by the proof that is meant for it, which names the module."""

from __future__ import annotations

import re
from typing import Any

import pytest
from broken_surgeries import broken
from verify_models import proved, task_of

from clora_inspect.verify.proof_table import PROOFS

pytestmark = pytest.mark.usefixtures("one_cpu_rank")


FC1, QKV, ANY_LINEAR = r"mlp\.linear_fc1", r"self_attention\.linear_qkv", r"linear_\w+"
DROPS = {"dropout": 0.1}
ONE_LAYER = {"target_modules": ["*.layers.0.*.linear_q"]}

FOUND: list[tuple[str, str, str, dict[str, Any], str]] = [
    ("swapped up and gate", "liveness", "dense", {}, FC1),
    ("swapped up and gate", "merge", "dense", {}, FC1),
    ("swapped k and v", "liveness", "dense", {}, QKV),
    ("q, k and v one after another", "liveness", "dense", {}, QKV),
    ("interleaved one group off", "merge", "dense", {}, QKV),
    ("scale is alpha", "merge", "dense", {}, QKV),
    ("scale is left out", "merge", "experts", {}, ANY_LINEAR),
    ("B is not zero", "zero-b", "dense", {}, QKV),
    ("A is shared by q and k", "surgery", "dense", {}, QKV),
    ("adapters on another layer", "surgery", "dense", ONE_LAYER, r"layers\.0.*linear_qkv\[q\]"),
    (
        "one part too few",
        "surgery",
        "dense",
        {"target_modules": ["linear_q", "linear_k", "linear_v"]},
        r"linear_qkv\[k\]",
    ),
    ("another dim", "surgery", "dense", {}, ANY_LINEAR),
    ("bias is dropped", "zero-b", "biased", {}, QKV),
    ("output goes through bf16", "zero-b", "dense", {}, QKV),
    ("adapter reads the input before the norm", "merge", "dense", {}, QKV),
    ("a norm is trainable", "surgery", "dense", {}, r"decoder\.final_layernorm"),
    ("an adapter is frozen", "surgery", "dense", {}, r"layers\.0\.mlp\.linear_fc2"),
    ("a base weight is changed", "surgery", "dense", {}, r"layers\.1\.mlp\.linear_fc2"),
    ("the config is changed", "surgery", "dense", {}, ""),
    ("delta is thrown away", "liveness", "dense", {}, r"linear_(proj|fc2)"),
    ("a trace of a part in the next one's rows", "liveness", "dense", {}, QKV),
    ("a trace of later tokens", "causality", "dense", {}, QKV),
    ("later tokens leak", "causality", "dense", {}, QKV),
    ("delta goes to the next token", "merge", "dense", {}, QKV),
    ("dropout in evaluation", "dropout", "dense", DROPS, ""),
    ("dropout on the other side", "dropout", "dense", DROPS, r"linear_proj"),
    ("dropout on the other side", "dropout", "experts", DROPS, ANY_LINEAR),
    ("dropout at another rate", "dropout", "dense", DROPS, r"linear_proj"),
    ("dropout is not scaled", "dropout", "dense", DROPS, r"linear_proj"),
    ("dropout of whole tokens", "dropout", "dense", DROPS, r"linear_proj"),
    ("dropout mask is not recomputed", "dropout", "dense", DROPS, ANY_LINEAR),
    ("dropout mask is always the same", "dropout", "dense", DROPS, r"linear_proj"),
    ("scale is applied twice", "merge", "dense", {}, QKV),
    ("alpha is lost on load", "checkpoint", "dense", {}, ""),
    ("delta is rounded to bf16 and added twice", "merge", "no gate", {}, ANY_LINEAR),
    ("second surgery freezes", "twice", "dense", {}, ANY_LINEAR),
    ("checkpoint rows are permuted", "checkpoint", "dense", {}, ANY_LINEAR),
    ("a checkpoint of another alpha is loaded", "checkpoint", "dense", {}, ""),
    ("B is not loaded", "checkpoint", "dense", {}, ANY_LINEAR),
    ("merging subtracts", "merge", "dense", {}, ANY_LINEAR),
    ("merging forgets the last row", "merge", "dense", {}, ANY_LINEAR),
    ("unmerging subtracts", "merge", "dense", {}, ANY_LINEAR),
    ("imported upside down", "export", "dense", {}, ANY_LINEAR),
    ("exported without one", "export", "dense", {}, ""),
    ("recomputation without an input that wants a gradient", "recompute", "dense", {}, ""),
    ("A is detached", "gradients", "dense", {}, ANY_LINEAR),
    ("gradient is doubled", "gradients", "dense", {}, ANY_LINEAR),
    ("gradient is infinite", "gradients", "dense", {}, ANY_LINEAR),
    ("the next expert's B", "merge", "experts", {"share_expert_adapters": False}, r"mlp\.experts\.linear_fc1"),
]


@pytest.mark.parametrize(
    ("fault", "proof", "model", "lora", "where"), FOUND, ids=[f"{row[0]}: {row[1]}" for row in FOUND]
)
def test_a_broken_surgery_is_found(fault: str, proof: str, model: str, lora: dict[str, Any], where: str) -> None:
    with broken(fault) as implementation:
        answer = proved(proof, task_of(model, **lora), implementation)
    assert answer.status == "failed", answer
    assert re.search(where, answer.where or "") is not None, answer
    assert "raises" not in answer.detail


@pytest.mark.parametrize(
    ("proof", "model", "lora"),
    list({(row[1], row[2], repr(row[3])): (row[1], row[2], row[3]) for row in FOUND}.values()),
    ids=str,
)
def test_the_same_proof_passes_on_a_sound_surgery(proof: str, model: str, lora: dict[str, Any]) -> None:
    answer = proved(proof, task_of(model, **lora))
    assert answer.status == "passed", answer


ONLY_FOUND_BY: dict[str, tuple[str, dict[str, Any]]] = {
    "surgery": ("the config is changed", {}),
    "zero-b": ("B is not zero", {}),
    # `merge` has a bound because of rounding; these two have none, and find smaller traces.
    "liveness": ("a trace of a part in the next one's rows", {}),
    "causality": ("a trace of later tokens", {}),
    "merge": ("merging forgets the last row", {}),
    "gradients": ("gradient is doubled", {}),
    "recompute": ("recomputation without an input that wants a gradient", {}),
    "dropout": ("dropout on the other side", {"dropout": 0.1}),
    "checkpoint": ("checkpoint rows are permuted", {}),
    "export": ("imported upside down", {}),
    "twice": ("second surgery freezes", {}),
}
"""Proof -> a fault that no other proof finds, which is why the proof exists. `layout` needs ranks
and is in tests/parallel; `base-twice` and `placements` are in test_premises.py.
"""


@pytest.mark.parametrize("proof", ONLY_FOUND_BY)
def test_a_proof_finds_a_fault_that_no_other_finds(proof: str) -> None:
    fault, lora = ONLY_FOUND_BY[proof]
    with broken(fault) as implementation:
        answers = {each.name: proved(each.name, task_of("short", **lora), implementation).status for each in PROOFS}
    assert {name for name, status in answers.items() if status == "failed"} == {proof}
    without = {"layout"} if lora.get("dropout") else {"layout", "dropout"}
    assert {name for name, status in answers.items() if status == "skipped"} == without


def test_every_proof_has_a_fault_of_its_own() -> None:
    assert {proof.name for proof in PROOFS} == {*ONLY_FOUND_BY, "layout", "base-twice"}
