"""Proofs on real ranks: sound surgeries pass on every kind of layout, and faults that only several
ranks show are found.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from gloo import on_ranks
from verify_models import task_of

from clora_inspect.job.layout import Layout
from clora_inspect.verify.proof_table import PROOFS, Need
from clora_inspect.verify.task import RankAnswer

TP2, TP2_NO_SP, EP2, TP2_EP2, PP2 = (
    Layout(tp=2),
    Layout(tp=2, sp=False),
    Layout(ep=2),
    Layout(tp=2, ep=2, etp=1),
    Layout(pp=2),
)

ON_RANKS: list[tuple[str, str, str, Layout, dict[str, Any], str]] = [
    ("gradient is cut at a gather", "layout", "dense", TP2, {}, r"linear_\w+"),
    ("partial gradients are not summed", "layout", "dense", TP2, {}, r"linear_\w+"),
    (
        "row-parallel delta is not summed",
        "merge",
        "dense",
        TP2_NO_SP,
        {"target_modules": ["linear_proj"]},
        r"linear_proj",
    ),
    ("experts' shared gradients are not summed", "layout", "experts", TP2_EP2, {}, r"experts\.linear_fc"),
    ("ranks draw their own values", "layout", "experts", EP2, {}, r"linear_\w+"),
    ("all ranks draw the same part", "layout", "dense", TP2, {}, r"linear_\w+"),
    (
        "packed sections are saved in the order of ranks",
        "checkpoint",
        "hybrid",
        TP2,
        {"target_modules": ["in_proj"]},
        r"mixer\.in_proj",
    ),
    (
        "ranks draw the same mask of other tokens",
        "dropout",
        "dense",
        TP2,
        {"dropout": 0.1, "target_modules": ["linear_q"]},
        r"linear_qkv\[q\]",
    ),
    (
        "ranks draw masks of their own of the same values",
        "dropout",
        "dense",
        TP2_NO_SP,
        {"dropout": 0.1, "dropout_position": "post", "target_modules": ["linear_proj"]},
        "linear_proj",
    ),
    ("local rows of B where groups are cut", "merge", "one group", TP2, {}, r"self_attention\.linear_qkv"),
]


def _on_ranks(fault: str, proof: str, model: str, layout: Layout, lora: dict[str, Any]) -> list[RankAnswer]:
    what = msgspec.json.encode(task_of(model, layout, **lora))
    task = "verify_models:proved_broken"
    return [msgspec.json.decode(each, type=RankAnswer) for each in on_ranks(layout, task, proof, what, fault)]


@pytest.mark.parametrize(
    ("fault", "proof", "model", "layout", "lora", "where"), ON_RANKS, ids=[row[0] for row in ON_RANKS]
)
def test_a_fault_that_only_ranks_show_is_found(
    fault: str, proof: str, model: str, layout: Layout, lora: dict[str, Any], where: str
) -> None:
    answers = _on_ranks(fault, proof, model, layout, lora)
    failed = [answer for answer in answers if answer.status == "failed"]
    assert failed, answers
    assert re.search(where, failed[0].where or ""), failed[0]


@pytest.mark.parametrize(
    ("proof", "model", "layout", "lora"),
    list({repr(row[1:5]): row[1:5] for row in ON_RANKS}.values()),
    ids=lambda value: value.label if isinstance(value, Layout) else str(value),
)
def test_the_same_proof_passes_there_on_a_sound_surgery(
    proof: str, model: str, layout: Layout, lora: dict[str, Any]
) -> None:
    answers = _on_ranks("none", proof, model, layout, lora)
    assert {answer.status for answer in answers} == {"passed"}, answers


def test_layout_sees_what_no_other_proof_sees_on_ranks() -> None:
    fault, _, model, layout, lora, _ = next(row for row in ON_RANKS if row[0] == "ranks draw their own values")
    running = [
        proof.name for proof in PROOFS if Need.FORWARD in proof.needs and proof.name not in ("recompute", "dropout")
    ]
    seen = {proof: _on_ranks(fault, proof, model, layout, lora) for proof in running}
    failed = {name for name, answers in seen.items() if any(answer.status == "failed" for answer in answers)}
    assert failed == {"layout"}


@pytest.mark.parametrize("proof", ["zero-b", "liveness", "layout", "checkpoint"])
def test_an_uneven_pipeline_is_proved(proof: str) -> None:
    """Held against one rank, which has no pipeline to split."""
    answers = _on_ranks("none", proof, "uneven", PP2, {})
    assert {answer.status for answer in answers} == {"passed"}, answers
