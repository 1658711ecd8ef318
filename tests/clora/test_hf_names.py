"""Hugging Face names of adapters, as tables. The tests of `clora.hf` use real models."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clora.errors import HFAdapterError
from clora.families import families
from clora.folders.hf_folder import read_hf_config
from clora.hf_names import HFLinear, NoHFLinear, Rows, hf_linears
from clora.plan import ExpertFacts, Placement

SHARED = ExpertFacts(num_experts=4, num_local_experts=2, per_expert=False, ep=2, etp=1)
OWN = ExpertFacts(num_experts=4, num_local_experts=2, per_expert=True, ep=2, etp=1)


def placement(
    module: str, part: str | None = None, *, layer: int | None = 7, experts: ExpertFacts | None = None
) -> Placement:
    fields: dict[str, Any] = {
        "base_class": "TELinear",
        "wrapper": "LoRALinear",
        "adapter_class": "ParallelLinearAdapter",
        "dim": 4,
        "alpha": 8.0,
        "a_shape": (4, 8),
        "b_shape": (8, 4),
        "a_global_shape": (4, 8),
        "b_global_shape": (8, 4),
        "a_axes": (None, None),
        "b_axes": (None, None),
        "target": None,
        "params": 64,
    }
    return Placement(module=module, global_layer=layer, part=part, experts=experts, **fields)


def named(model_type: str, module: str, part: str | None = None, **options: Any) -> list[str]:
    found = hf_linears(placement(module, part, **options), model_type)
    assert not isinstance(found, NoHFLinear), found.reason
    return [linear.module for linear in found]


QKV, PROJ = "decoder.layers.0.self_attention.linear_qkv", "decoder.layers.0.self_attention.linear_proj"
FC1, FC2 = "decoder.layers.0.mlp.linear_fc1", "decoder.layers.0.mlp.linear_fc2"
LLAMA_LIKE = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "mixtral", "qwen3_moe", "qwen3_next", "gpt_oss"]


@pytest.mark.parametrize("model_type", [*LLAMA_LIKE, "nemotron"])
def test_attention(model_type: str) -> None:
    parts = [name for part in "qkv" for name in named(model_type, QKV, part)]
    assert parts == [f"model.layers.7.self_attn.{part}_proj" for part in "qkv"]
    assert named(model_type, PROJ) == ["model.layers.7.self_attn.o_proj"]


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "deepseek_v3"])
def test_a_dense_mlp(model_type: str) -> None:
    assert named(model_type, FC1, "gate") == ["model.layers.7.mlp.gate_proj"]
    assert named(model_type, FC1, "up") == ["model.layers.7.mlp.up_proj"]
    assert named(model_type, FC2) == ["model.layers.7.mlp.down_proj"]


def test_an_mlp_without_a_gate_has_an_up_projection() -> None:
    assert named("nemotron", FC1) == ["model.layers.7.mlp.up_proj"]
    assert named("nemotron_h", FC1) == ["backbone.layers.7.mixer.up_proj"]
    assert named("nemotron_h", QKV, "k") == ["backbone.layers.7.mixer.k_proj"]
    assert isinstance(hf_linears(placement(FC1, "gate"), "nemotron"), NoHFLinear)


@pytest.mark.parametrize("model_type", ["deepseek_v2", "deepseek_v3", "kimi_k2"])
def test_latent_attention(model_type: str) -> None:
    at = "decoder.layers.0.self_attention."
    ours = ["linear_q_proj", "linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj"]
    theirs = ["q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"]
    assert [named(model_type, at + name) for name in ours] == [[f"model.layers.7.self_attn.{name}"] for name in theirs]


@pytest.mark.parametrize(
    ("model_type", "at", "gate", "up", "down"),
    [
        ("mixtral", "model.layers.7.block_sparse_moe.experts", "w1", "w3", "w2"),
        ("qwen3_moe", "model.layers.7.mlp.experts", "gate_proj", "up_proj", "down_proj"),
        ("deepseek_v3", "model.layers.7.mlp.experts", "gate_proj", "up_proj", "down_proj"),
    ],
)
def test_grouped_experts_are_a_linear_per_expert(model_type: str, at: str, gate: str, up: str, down: str) -> None:
    for experts in (SHARED, OWN):
        found = hf_linears(placement("decoder.layers.0.mlp.experts.linear_fc1", experts=experts), model_type)
        assert found == tuple(
            HFLinear(module=f"{at}.{expert}.{name}", rows=rows, expert=expert)
            for expert in range(4)
            for name, rows in ((gate, Rows.GATE), (up, Rows.UP))
        )
        fc2 = named(model_type, "decoder.layers.0.mlp.experts.linear_fc2", experts=experts)
        assert fc2 == [f"{at}.{expert}.{down}" for expert in range(4)]


def test_a_sequential_expert_is_one_on_every_expert_parallel_rank() -> None:
    at = placement("decoder.layers.0.mlp.experts.local_experts.1.linear_fc1", "up", experts=OWN)
    everywhere, on_second = hf_linears(at, "qwen3_moe"), hf_linears(at, "qwen3_moe", ep_rank=1)
    assert everywhere == tuple(HFLinear(module=f"model.layers.7.mlp.experts.{n}.up_proj", expert=n) for n in (1, 3))
    assert on_second == (HFLinear(module="model.layers.7.mlp.experts.3.up_proj", expert=3),)


@pytest.mark.parametrize(
    ("model_type", "inside", "at"),
    [
        ("mistral", "mistral3", "model.language_model.layers.7.self_attn.o_proj"),
        ("qwen2", "llava", "model.language_model.layers.7.self_attn.o_proj"),
        ("llama", "idefics3", "model.text_model.layers.7.self_attn.o_proj"),
        ("llama4_text", "llama4", "language_model.model.layers.7.self_attn.o_proj"),
        ("qwen2_5_omni_text", "qwen2_5_omni", "thinker.model.layers.7.self_attn.o_proj"),
    ],
)
def test_a_text_model_inside_another(model_type: str, inside: str, at: str) -> None:
    assert hf_linears(placement(PROJ), model_type, inside=inside) == (HFLinear(module=at),)
    head = f"{at.partition('.model.')[0]}.lm_head" if ".model." in at else "lm_head"
    assert hf_linears(placement("output_layer", layer=None), model_type, inside=inside) == (HFLinear(module=head),)


def test_a_text_model_inside_another_that_is_not_known() -> None:
    found = hf_linears(placement(PROJ), "nemotron_h", inside="some_vl")
    assert isinstance(found, NoHFLinear)
    assert "the place of a nemotron_h model in a some_vl model is not known" in found.reason


def test_the_input_projection_of_a_mamba_layer() -> None:
    assert named("nemotron_h", "decoder.layers.0.mixer.in_proj") == ["backbone.layers.7.mixer.in_proj"]


def test_experts_without_a_gate() -> None:
    fc1 = named("nemotron_h", "decoder.layers.0.mlp.experts.linear_fc1", experts=SHARED)
    assert fc1 == [f"backbone.layers.7.mixer.experts.{expert}.up_proj" for expert in range(4)]


@pytest.mark.parametrize(
    ("model_type", "at"),
    [
        ("qwen3_next", "mlp.shared_expert"),
        ("deepseek_v2", "mlp.shared_experts"),
        ("nemotron_h", "mixer.shared_experts"),
    ],
)
def test_shared_experts(model_type: str, at: str) -> None:
    layers = "backbone.layers" if model_type == "nemotron_h" else "model.layers"
    assert named(model_type, "decoder.layers.0.mlp.shared_experts.linear_fc2") == [f"{layers}.7.{at}.down_proj"]


def test_query_and_output_gate_are_one_projection() -> None:
    assert hf_linears(placement(QKV, "q"), "qwen3_next") == (
        HFLinear(module="model.layers.7.self_attn.q_proj", rows=Rows.QUERY_AND_GATE),
    )
    assert hf_linears(placement(QKV, "k"), "qwen3_next") == (HFLinear(module="model.layers.7.self_attn.k_proj"),)


@pytest.mark.parametrize("model_type", families())
def test_the_output_layer_is_the_head(model_type: str) -> None:
    assert named(model_type, "output_layer", layer=None) == ["lm_head"]


@pytest.mark.parametrize(
    ("model_type", "module", "part", "reason"),
    [
        ("llama", "mtp.layers.0.transformer_layer.self_attention.linear_proj", None, "multi-token-prediction"),
        ("llama", "vision_model.decoder.layers.0.self_attention.linear_proj", None, "outside the decoder's layers"),
        ("llama", "decoder.layers.0.self_attention.linear_q_down_proj", None, "no counterpart of linear_q_down_proj"),
        ("deepseek_v3", QKV, "q", r"no counterpart of linear_qkv\[q\]"),
        ("llama", "decoder.layers.0.mlp.shared_experts.linear_fc2", None, "no counterpart of mlp.shared_experts"),
        ("llama", "decoder.layers.0.cross_attention.linear_proj", None, "no counterpart of cross_attention"),
        ("qwen3_next", "decoder.layers.0.self_attention.in_proj", None, "cuts the gated delta net's in_proj in two"),
        ("nemotron_h", "decoder.layers.0.mixer.out_proj", None, "PEFT refuses adapters on Mamba's out_proj"),
        ("nemotron", "decoder.layers.0.mixer.in_proj", None, "no counterpart of mixer.in_proj"),
        ("gpt_oss", "decoder.layers.0.mlp.experts.linear_fc2", None, "three-dimensional parameter"),
        ("bert", QKV, "q", "no names are known for model_type 'bert'; known: .*, deepseek_v2, "),
    ],
)
def test_what_has_no_name_has_a_reason(model_type: str, module: str, part: str | None, reason: str) -> None:
    found = hf_linears(placement(module, part, experts=SHARED if ".experts." in module else None), model_type)
    assert isinstance(found, NoHFLinear)
    assert not found.left_out
    assert re.search(reason, found.reason)


@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3"])
def test_a_router_is_left_out(model_type: str) -> None:
    found = hf_linears(placement("decoder.layers.0.mlp.router"), model_type)
    assert isinstance(found, NoHFLinear)
    assert found.left_out


def test_names_need_neither_torch_nor_megatron() -> None:
    code = "import sys, clora.hf_names; print(sorted({'torch', 'megatron'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [("[]", "it holds no object"), ("[" * 50_000, "is not what it should be"), ('{"a": ' + "9" * 5_000, "is not what")],
)
def test_the_config_of_a_model_is_read_as_python_reads_it(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "nemotron_h", "time_step_limit": [0.0, Infinity]}')
    assert read_hf_config(tmp_path)["time_step_limit"] == [0.0, float("inf")]
    path.write_text(text)
    with pytest.raises(HFAdapterError, match=said):
        read_hf_config(path)
