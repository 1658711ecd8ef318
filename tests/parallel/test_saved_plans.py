"""A saved plan and a snapshot are carried out on real ranks, exactly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from family_configs import small_config
from gloo import on_ranks

from clora import CanonicalLoRA
from clora_inspect.job import plan as saved_plan
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job
from clora_inspect.snapshot import record

if TYPE_CHECKING:
    from pathlib import Path

FLOAT32 = {"params_dtype": "float32", "bf16": False}

# Ranks, model, axes, fields of the config, settings of LoRA.
CASES: dict[str, tuple[int, str, dict[str, int], dict[str, Any], dict[str, Any]]] = {
    "dense, tp2": (2, "llama", {"tp": 2}, FLOAT32, {}),
    "dense, pp2, by number": (
        2,
        "llama",
        {"pp": 2},
        FLOAT32,
        {"target_modules": ["*.layers.1.*.linear_q", "linear_fc1_up", "output_layer"]},
    ),
    "experts, tp2 pp2 ep2": (4, "qwen3_moe", {"tp": 2, "pp": 2, "ep": 2, "etp": 1}, FLOAT32, {}),
    "dense, tp2 pp2 vpp2": (4, "llama", {"tp": 2, "pp": 2, "vpp": 2}, FLOAT32, {}),
    "latent attention and routers, pp2 ep2": (
        4,
        "deepseek_v3",
        {"pp": 2, "ep": 2},
        FLOAT32,
        {"target_modules": ["linear_q_down_proj", "linear_kv_up_proj", "router", "linear_fc1_gate"]},
    ),
    "sequential experts, ep4": (
        4,
        "qwen3_moe",
        {"ep": 4},
        {**FLOAT32, "moe_grouped_gemm": False},
        {"target_modules": ["linear_fc1_up", "linear_fc2"]},
    ),
    "a hybrid, tp2 pp2": (4, "nemotron_h", {"tp": 2, "pp": 2}, FLOAT32, {"target_modules": ["in_proj", "linear_fc2"]}),
}
IN_CI = ("dense, pp2, by number", "experts, tp2 pp2 ep2")


@pytest.mark.parametrize("file", ["plan", "snapshot"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_CI else pytest.mark.nightly) for name in CASES]
)
def test_a_file_is_carried_out_on_every_rank(name: str, file: str, tmp_path: Path) -> None:
    ranks, model_type, axes, fields, settings = CASES[name]
    (tmp_path / "config.json").write_text(json.dumps({**small_config(model_type), "tie_word_embeddings": False}))
    lora = {"dim": 4, "alpha": 8, **settings}
    plan = plan_job(Job(model=str(tmp_path), lora=CanonicalLoRA(**lora), layout=Layout(**axes), model_overrides=fields))
    written = tmp_path / "saved.json"
    is_plan = file == "plan"
    written.write_bytes(saved_plan.encode(plan) if is_plan else record.encode(record.take(plan, "tiny")))
    answers = on_ranks(
        Layout(**axes),
        "saved_plan_tasks:carry_out",
        str(tmp_path),
        axes,
        fields,
        lora,
        str(written),
        is_plan,
        ranks=ranks,
        timeout_s=600,
    )
    assert answers == [{"unlike": [], "rank": True, "settings": True, "gate": ""}] * ranks
