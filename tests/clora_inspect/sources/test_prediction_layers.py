"""Multi-token-prediction layers have the form of the family's layers, also on a stage without any
decoder layer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "attention_bias": True,
}


@pytest.mark.parametrize(
    "split", [{"pipeline_model_parallel_layout": "Et|mL"}, {"account_for_loss_in_pipeline_split": True}]
)
@pytest.mark.parametrize("model_type", ["qwen3", "seed_oss", "glm4", "olmo2", "olmoe"])
def test_prediction_layers_are_like_the_decoders(model_type: str, split: dict[str, Any], tmp_path: Path) -> None:
    """No bias behind attention, norms behind, and norms over all heads."""
    bias = {"attention_bias": model_type in {"qwen3", "seed_oss"}, "attention_out_bias": True}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **SMALL, **bias}))

    def params(layout: Layout, **fields: Any) -> int:
        overrides = {"mtp_num_layers": 1, **fields}
        return plan_job(Job(model=str(tmp_path), layout=layout, model_overrides=overrides)).totals.base_params

    assert params(Layout(pp=2), **split) == params(Layout())
