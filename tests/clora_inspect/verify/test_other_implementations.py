"""Whatever modules of another implementation do in a proof is a verdict on them, and no internal
error.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from verify_models import proved, task_of

from clora_inspect.verify.implementation.clora import Clora
from clora_inspect.verify.outcome import BrokenOffError
from clora_inspect.verify.proof_table import PROOF_NAMES
from clora_inspect.verify.task import answer_of

pytestmark = pytest.mark.usefixtures("one_cpu_rank")


class OtherShape(Clora):
    """Makes one B with half of its rows."""

    is_ours = False

    def apply(self, chunks: list[Any], lora: Any) -> list[Any]:
        super().apply(chunks, lora)
        factor = chunks[0].decoder.layers[0].mlp.linear_fc2.adapter.linear_out
        factor.weight = torch.nn.Parameter(factor.weight.detach()[::2].clone())
        return chunks


class NoWeight(Clora):
    """Takes the config away that a proof reads beside an adapter."""

    is_ours = False

    def apply(self, chunks: list[Any], lora: Any) -> list[Any]:
        super().apply(chunks, lora)
        chunks[0].decoder.layers[0].self_attention.linear_qkv.config = None
        return chunks


@pytest.mark.parametrize("proof", [name for name in PROOF_NAMES if name not in ("base-twice", "dropout", "layout")])
def test_a_factor_of_another_shape_is_a_verdict_in_every_proof(proof: str) -> None:
    answer = proved(proof, task_of("short"), OtherShape())
    assert (answer.status, answer.where) == ("failed", "decoder.layers.0.mlp.linear_fc2")


def test_an_exception_of_foreign_modules_is_a_verdict_with_the_module() -> None:
    with pytest.raises(BrokenOffError) as raised:
        proved("liveness", task_of("short"), NoWeight())
    answer = answer_of(raised.value)
    assert (answer.status, answer.where) == ("failed", "decoder.layers.0.self_attention.linear_qkv[q]")
    assert "raises AttributeError" in answer.detail
