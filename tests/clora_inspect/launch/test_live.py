"""What is read of a live rank, and what a saved plan asks for: neither may raise a false alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from small_gpt import TINY

from clora import CanonicalLoRA
from clora_inspect.job import plan as saved_plan
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.launch.expected import read_expected
from clora_inspect.launch.live import read_rank
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from pathlib import Path


class KeepsNorms(CanonicalLoRA):
    """Trains the norms beside the adapters."""

    def freeze_model(self, model: Any, training: bool = True) -> None:
        super().freeze_model(model, training=training)
        for chunk in model:
            for name, parameter in chunk.named_parameters():
                parameter.requires_grad_("layer_norm" in name)


def test_what_a_subclass_keeps_trainable_is_no_alarm_and_anything_else_is() -> None:
    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout()):
        chunks = build_chunks(load_definition("llama3-8b").override(TINY), Layout())
        KeepsNorms(dim=4)(chunks)
        assert read_rank(chunks).not_in_effect == ()
        chunks[0].get_parameter("decoder.layers.1.self_attention.linear_proj.weight").requires_grad_(True)
        (told,) = read_rank(chunks).not_in_effect
    assert told.where == "decoder.layers.1.self_attention.linear_proj.weight"
    assert "is trainable, and canonical LoRA freezes it" in told.text


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        ({}, set()),
        (
            {"recompute_granularity": "selective", "recompute_modules": ["mlp"]},
            {"recompute_granularity", "recompute_modules"},
        ),
    ],
)
def test_a_plan_asks_for_no_field_that_megatron_core_fills_in(
    tmp_path: Path, overrides: dict[str, Any], asked: set[str]
) -> None:
    job = Job(model="llama3-8b", lora=CanonicalLoRA(dim=4), layout=Layout(), model_overrides={**TINY, **overrides})
    plan = plan_job(job)
    assert plan.model.config is not None
    assert "recompute_modules" in plan.model.config
    file = tmp_path / "plan.json"
    file.write_bytes(saved_plan.encode(plan))
    planned = read_expected(file).planned_config
    assert planned is not None
    assert {name for name in planned if name.startswith("recompute")} == asked
    assert {"cuda_graph_scope", "cuda_graph_modules", "microbatch_group_size_per_vp_stage"}.isdisjoint(planned)
    assert planned["hidden_size"] == TINY["hidden_size"]
