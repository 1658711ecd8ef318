"""The gate lets every run pass that is as it was accepted: 0 false alarms on real ranks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
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
    from collections.abc import Mapping

pytestmark = pytest.mark.xdist_group("gate")

RANKS = 8
EXAMPLES = Path(__file__).parents[2] / "examples" / "your_model"
FLOAT32 = {"params_dtype": "float32", "bf16": False}
LLAMA = {**small_config("llama"), "tie_word_embeddings": False}
MOE = small_config("qwen3_moe")
SELECTIVE = {"recompute_granularity": "selective", "recompute_modules": ["core_attn", "mlp", "layernorm"]}
FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
ALL = {"target_modules": []}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is as it was accepted."""

    model: Mapping[str, Any] | str
    """A small config.json, or a function in examples/your_model."""
    axes: Mapping[str, Any]
    planned: Mapping[str, Any] = field(default_factory=lambda: FLOAT32)
    """Fields of the config that the job sets, too."""
    launcher: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the config that only the trainer sets."""
    lora: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    """What the trainer does after surgery. The gate is asked after each."""


RUNS = {
    "dense, tensor, pipeline and sequence parallel": Run(
        model=LLAMA,
        axes={"tp": 2, "pp": 2},
        launcher={
            "calculate_per_token_loss": True,
            "bias_dropout_fusion": True,
            "microbatch_group_size_per_vp_stage": 4,
        },
    ),
    "tied embeddings on two stages": Run(
        model={**small_config("qwen3"), "tie_word_embeddings": True}, axes={"tp": 2, "pp": 2}
    ),
    "virtual pipeline": Run(model=LLAMA, axes={"pp": 2, "vpp": 2}, planned={}, steps=("float16", "ddp")),
    "context parallel": Run(model=LLAMA, axes={"tp": 2, "cp": 2}),
    "uneven stages": Run(
        model=LLAMA,
        axes={"tp": 1, "pp": 2},
        planned={**FLOAT32, "num_layers_in_first_pipeline_stage": 1, "num_layers_in_last_pipeline_stage": 3},
    ),
    "experts over ep": Run(model=MOE, axes={"tp": 2, "ep": 4}),
    "experts over ep and etp": Run(model=MOE, axes={"tp": 2, "ep": 2, "etp": 2, "pp": 2}, lora=ALL),
    "a pair for each expert": Run(
        model=MOE, axes={"tp": 2, "ep": 2, "etp": 1}, lora={"share_expert_adapters": False, "dim": 8}
    ),
    "a smaller rank in experts": Run(model=MOE, axes={"tp": 2, "ep": 2}, lora={"normalize_moe_lora": True, "dim": 8}),
    "sequential experts": Run(
        model=MOE, axes={"tp": 1, "ep": 4, "pp": 2}, planned={**FLOAT32, "moe_grouped_gemm": False}
    ),
    "sequential experts over tp": Run(
        model=MOE, axes={"tp": 2, "ep": 2}, planned={**FLOAT32, "moe_grouped_gemm": False}, lora=ALL
    ),
    "latent attention": Run(model=small_config("deepseek_v3"), axes={"tp": 2, "ep": 2, "pp": 2}, lora=ALL),
    "multi-token prediction": Run(
        model={**small_config("deepseek_v3"), "num_nextn_predict_layers": 1},
        axes={"tp": 2, "ep": 2, "pp": 2},
        planned={**FLOAT32, "mtp_num_layers": 1},
    ),
    "tied embeddings with multi-token prediction on two stages": Run(
        model={**small_config("deepseek_v3"), "num_nextn_predict_layers": 1, "tie_word_embeddings": True},
        axes={"tp": 2, "ep": 2, "pp": 2},
        planned={**FLOAT32, "mtp_num_layers": 1},
    ),
    "experts in a virtual pipeline": Run(model=MOE, axes={"ep": 2, "pp": 2, "vpp": 2}),
    "mamba and attention": Run(model=small_config("nemotron_h"), axes={"tp": 2, "pp": 2, "ep": 2}, lora=ALL),
    "gpt-oss": Run(model=small_config("gpt_oss"), axes={"tp": 2, "ep": 2, "pp": 2, "etp": 1}),
    "a vision tower": Run(
        model="llava.py:build",
        axes={"pp": 2},
        planned={},
        lora={"target_modules": ["linear_q", "language_model.*.linear_fc2"]},
    ),
    "layers of one's own": Run(
        model="own_layers.py:build", axes={"tp": 2}, planned={}, lora={"target_modules": ["up"]}
    ),
    "a provider": Run(model="provider.py:build", axes={"tp": 2, "pp": 2}, planned={}),
    "chunks in Float16Module": Run(model="chunks.py:get_model", axes={"pp": 2, "vpp": 2}, planned={}, steps=("ddp",)),
    "bf16 in DDP, with a distributed optimizer and a step": Run(
        model=LLAMA,
        axes={"tp": 2},
        planned={},
        steps=("float16", "distributed_ddp", "distributed_optimizer", "step", "eval"),
    ),
    "torch's DDP": Run(model=LLAMA, axes={"tp": 2}, steps=("torch_ddp",)),
    "full recompute": Run(
        model=LLAMA, axes={"tp": 2}, launcher=FULL, steps=("distributed_ddp", "distributed_optimizer", "step")
    ),
    "selective recompute": Run(model=LLAMA, axes={"tp": 2, "pp": 2}, launcher=SELECTIVE),
    "selective recompute of experts": Run(
        model=small_config("deepseek_v3"),
        axes={"tp": 2, "ep": 2},
        planned={},
        launcher={"recompute_granularity": "selective", "recompute_modules": ["moe", "mla_up_proj", "layernorm"]},
        steps=("float16", "distributed_ddp"),
    ),
    "exclusion by number": Run(
        model=LLAMA,
        axes={"tp": 2, "pp": 2},
        lora={"target_modules": [], "exclude_modules": ["*.layers.1.*", "linear_v"]},
    ),
    "every setting of LoRA": Run(
        model=LLAMA,
        axes={"tp": 2},
        lora={
            "dim": 8,
            "alpha": 12.5,
            "dropout": 0.1,
            "dropout_position": "post",
            "lora_A_init_method": "kaiming",
            "lora_B_init_method": "normal",
        },
    ),
    "output layer and router": Run(
        model=MOE, axes={"tp": 2, "ep": 2}, lora={"target_modules": ["router", "output_layer", "linear_q"]}
    ),
    "norms that a subclass trains": Run(model=LLAMA, axes={"tp": 2, "pp": 2}, lora={"subclass": "KeepsNormsTrainable"}),
}
IN_CI = (
    "latent attention",
    "mamba and attention",
    "a vision tower",
    "bf16 in DDP, with a distributed optimizer and a step",
)


def test_enough_runs_are_in_the_table() -> None:
    assert len(RUNS) >= 20
    assert set(IN_CI) <= set(RUNS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_CI else pytest.mark.nightly) for name in RUNS]
)
def test_a_run_that_is_as_accepted_passes(name: str, tmp_path: Path) -> None:
    run = RUNS[name]
    if isinstance(run.model, str):
        model = str(EXAMPLES / run.model)
    else:
        model = str(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(run.model))
    lora = {"dim": 4, "alpha": 8, **run.lora}
    files = _files(tmp_path, model, run, {name: value for name, value in lora.items() if name != "subclass"})
    fields = {**run.planned, **run.launcher}
    answers = on_ranks(
        Layout(**run.axes),
        "gate_clean_tasks:gate_each",
        model,
        dict(run.axes),
        fields,
        lora,
        list(run.steps),
        files,
        ranks=RANKS,
        timeout_s=600,
    )
    assert all(answer == answers[0] for answer in answers)
    alarms = [answer["text"] for answer in answers[0] if answer["code"]]
    assert not alarms, "\n".join(alarms)
    assert len(answers[0]) == 2 * (1 + len(run.steps)) + 1


def _files(folder: Path, model: str, run: Run, lora: dict[str, Any]) -> list[str]:
    """Write the snapshot and the plan that the run is compared with."""
    plan = plan_job(
        Job(model=model, lora=CanonicalLoRA(**lora), layout=Layout(**run.axes), model_overrides=dict(run.planned))
    )
    snapshot, saved = folder / "train.json", folder / "plan.json"
    snapshot.write_bytes(record.encode(record.take(plan, "tiny")))
    saved.write_bytes(saved_plan.encode(plan))
    return [str(snapshot), str(saved)]
