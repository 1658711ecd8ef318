"""Outputs that megatron-core frees and computes again are not kept meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clora import CanonicalLoRA
from clora_inspect.cost.live import LiveBytes
from clora_inspect.job.job import Job
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.workload import Workload
from clora_inspect.pipeline import plan_job

TOKENS, LAYERS, HIDDEN, TOPK, EXPERT = 128, 2, 64, 2, 32
EXPERTS: dict[str, Any] = {
    "num_layers": LAYERS,
    "hidden_size": HIDDEN,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "num_moe_experts": 8,
    "moe_router_topk": TOPK,
    "moe_ffn_hidden_size": EXPERT,
}
LATENT = {**EXPERTS, "moe_layer_freq": [0, 1], "num_query_groups": 4, "ffn_hidden_size": 128}
HEADS, KEYS, VALUES = 4, 192, 128
"""Heads of LATENT, and the channels of deepseek-v2-lite's keys and values."""


def _kept(model: str, fields: dict[str, Any], recompute: str) -> dict[str, int]:
    """Return the bytes that each place keeps."""
    overrides = {**fields, **recompute_fields(recompute)}
    lora = CanonicalLoRA(target_modules=[], exclude_modules=["output_layer"], dim=4)
    [ranks] = plan_job(Job(model=model, model_overrides=overrides, lora=lora), Workload(seq_length=TOKENS)).rank_classes
    assert isinstance(ranks.memory, RankMemory)
    lines = [line for line in ranks.memory.lines if line.part == "activations"]
    assert all(line.bytes >= 0 for line in lines)
    return {line.what.partition(", ")[0]: line.bytes for line in lines}


@pytest.mark.parametrize(
    ("model", "fields", "module", "place", "less"),
    [
        # The input of fc2, which its adapter keeps.
        ("mixtral-8x7b", EXPERTS, "moe_act", "mlp.experts.linear_fc2", LAYERS * TOKENS * TOPK * EXPERT * 2),
        # The states of a layer with experts, which the router keeps.
        ("mixtral-8x7b", EXPERTS, "layernorm", "mlp.router", LAYERS * TOKENS * HIDDEN * 2),
        # Queries, keys and values, which attention keeps.
        (
            "deepseek-v2-lite",
            LATENT,
            "mla_up_proj",
            "self_attention.core_attention",
            LAYERS * TOKENS * HEADS * (2 * KEYS + VALUES) * 2,
        ),
    ],
)
def test_an_output_that_is_computed_again_is_not_kept(
    model: str, fields: dict[str, Any], module: str, place: str, less: int
) -> None:
    everything, discarded = (_kept(model, fields, recompute) for recompute in ("none", f"selective:{module}"))
    assert everything[place] - discarded.get(place, 0) == less
    assert sum(discarded.values()) < sum(everything.values())


def test_live_bytes_follow_a_storage_that_is_freed_and_made_again() -> None:
    before = torch.UntypedStorage.resize_
    with LiveBytes() as live:
        held = torch.empty(1024, device="meta")
        made = live.moment
        held.untyped_storage().resize_(0)
        freed = live.moment
        held.untyped_storage().resize_(4096)
        again = live.moment
        del held
    assert [live.span(0, moment).net for moment in (made, freed, again, live.moment)] == [4096, 0, 4096, 0]
    assert torch.UntypedStorage.resize_ is before
