"""Which tensor-parallel sizes a model is refused, and that those of the message work."""

from __future__ import annotations

import re
from typing import Any

import pytest

from clora.errors import LayoutError
from clora.families.base.hf_config import HFConfig
from clora_inspect.job.layout import Layout
from clora_inspect.sources.definition import ModelDefinition, from_hf_config

FEW_GROUPS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def model(model_type: str, **fields: Any) -> ModelDefinition:
    return from_hf_config("m", HFConfig(origin="m", values={"model_type": model_type, **FEW_GROUPS, **fields}))


@pytest.mark.parametrize("model_type", ["olmo2", "olmoe", "minimax_m2"])
def test_a_norm_over_all_key_heads_is_cut_by_whole_groups(model_type: str) -> None:
    """Ranks that share a group would have a norm of no channels."""
    with pytest.raises(LayoutError, match="the norm over all key heads") as refused:
        model(model_type).check(Layout(tp=8, etp=1))
    sizes = re.findall(r"\d+", str(refused.value).partition("It can be")[2])
    assert sizes == ["1", "2", "4"]
    for size in sizes:
        model(model_type).check(Layout(tp=int(size), etp=1))


def test_norms_of_single_heads_are_cut_with_copies_of_the_groups() -> None:
    model("qwen3").check(Layout(tp=8))
