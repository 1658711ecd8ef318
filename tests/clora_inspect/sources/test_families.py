"""Every family of the registry: its config converts, its model is built, and its linears have names
or a reason why they have none.
"""

from __future__ import annotations

import re
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import pytest

import clora.families
from clora.canonical_lora import CanonicalLoRA
from clora.errors import LayoutError, ModelError
from clora.families import families
from clora.families.base.hf_config import HFConfig
from clora.families.base.model_kind import ModelKind
from clora.hf_names import NoHFLinear, hf_linears
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources import architectures
from clora_inspect.sources.builders import BUILDERS
from clora_inspect.sources.definition import from_hf_config
from clora_inspect.sources.hf import family_of, read_config

# A field of one family means nothing to the others, so one small config serves them all.
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "index_head_dim": 64,
    "moe_shared_expert_intermediate_size": 16,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_num_experts": 8,
    "moe_k": 2,
    "moe_topk": 2,
    "n_group": 1,
    "first_k_dense_replace": 1,
    "hybrid_override_pattern": "M*-E",
}
OTHER: dict[str, dict[str, Any]] = {
    "llama4_text": {"num_experts_per_tok": 1, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 2},
    "bailing_moe": {"use_bias": False, "num_shared_experts": 1},
    "granitemoehybrid": {"layer_types": ["attention"] * 4},
}
EVERY_LINEAR = [
    "linear_q", "linear_k", "linear_v", "linear_fc1_gate", "linear_fc1_up", "linear_proj", "linear_fc2",
    "linear_q_proj", "linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj",
    "linear_wq_b", "linear_wk", "linear_weights_proj",
    "in_proj", "out_proj", "router", "output_layer",
]  # fmt: skip

WITHOUT_NAME = {
    ("qwen3_next", "in_proj"): "in two linears",
    **{(family, "mlp.linear_fc1"): "gate and up are one linear" for family in ("phi3", "glm", "glm4")},
    **{
        (family, "self_attention.linear_qkv"): "q, k and v are one linear"
        for family in ("phi3", "bailing_moe", "bailing_moe_v2", "gpt2", "gpt_bigcode")
    },
    ("llama4_text", "experts.linear_fc1"): "one three-dimensional parameter",
    ("llama4_text", "experts.linear_fc2"): "one three-dimensional parameter",
    ("qwen3_5_text", "in_proj"): "in four linears",
    ("qwen3_5_moe_text", "in_proj"): "in four linears",
    **{
        (family, f"experts.{linear}"): "one three-dimensional parameter"
        for family in ("qwen3_5_moe_text", "qwen3_vl_moe_text")
        for linear in ("linear_fc1", "linear_fc2")
    },
    ("gpt_oss", "experts.linear_fc1"): "one three-dimensional parameter",
    ("gpt_oss", "experts.linear_fc2"): "one three-dimensional parameter",
    **{
        (family, f"experts.{linear}"): "one three-dimensional parameter"
        for family in ("granitemoe", "granitemoeshared", "granitemoehybrid")
        for linear in ("linear_fc1", "linear_fc2")
    },
    **{
        (family, "shared_experts.linear_fc1"): "gate and up are one linear there, input_linear"
        for family in ("granitemoeshared", "granitemoehybrid")
    },
    **{
        (family, f"indexer.{linear}"): "the indexer only chooses keys"
        for family in ("deepseek_v32", "glm_moe_dsa")
        for linear in ("linear_wq_b", "linear_wk", "linear_weights_proj")
    },
    ("glm4v_text", "mlp.linear_fc1"): "gate and up are one linear",
    ("nemotron_h", "mixer.out_proj"): "PEFT refuses adapters on Mamba's out_proj",
}
"""(`model_type`, end of a path) -> words of the reason. Routers have no name in any family."""


def test_no_two_files_have_a_family_of_the_same_name() -> None:
    found = [file.name for file in walk_packages(clora.families.__path__, "clora.families.") if not file.ispkg]
    modules = [import_module(name) for name in found if ".base." not in name and ".multimodal." not in name]
    names = [model_type for module in modules for family in module.FAMILIES for model_type in family.model_types]
    assert sorted(names) == list(families())


@pytest.mark.parametrize("model_type", families())
def test_a_family_converts_and_names_every_linear_of_its_model_or_says_why_not(model_type: str) -> None:
    values = {"model_type": model_type, **SMALL, **OTHER.get(model_type, {})}
    definition = from_hf_config(model_type, HFConfig(origin="small", values=values))
    assert definition.kind is families()[model_type].builds
    reasons = {"mlp.router": "the router is no linear"}
    reasons |= {end: words for (of, end), words in WITHOUT_NAME.items() if of == model_type}
    used = {"mlp.router"}
    for placement in placements(definition):
        found = hf_linears(placement, model_type)
        end = next((end for end in reasons if placement.module.endswith(f".{end}")), None)
        if isinstance(found, NoHFLinear):
            assert end is not None, f"{placement.module} has no name: {found.reason}"
            assert reasons[end] in found.reason
            used.add(end)
        else:
            assert found, placement.module
            assert end is None, f"{placement.module} has a name: take it off WITHOUT_NAME"
    assert used == reasons.keys()


def placements(definition: Any) -> list[Any]:
    """An adapter at every linear of the model on one rank."""
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.virtual import virtual_cluster, virtual_megatron

    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout()):
        chunks = build_chunks(definition, Layout())
        plan = CanonicalLoRA(target_modules=EVERY_LINEAR, dim=2, alpha=4).plan(chunks)
    assert [skip.module for skip in plan.skipped if skip.linears] == [], "EVERY_LINEAR does not name them all"
    return list(plan.placements)


@pytest.mark.parametrize("model_type", families())
def test_a_router_whose_one_expert_always_has_weight_1_is_refused_by_its_field(model_type: str) -> None:
    """megatron-core would refuse it, and name an option of its training script."""
    chosen = {"num_experts_per_tok": 1, "moe_k": 1, "moe_topk": 1, "norm_topk_prob": True}
    values = {"model_type": model_type, **SMALL, **OTHER.get(model_type, {}), **chosen}
    message = ""
    try:
        fields = from_hf_config(model_type, HFConfig(origin="small", values=values)).config
    except ModelError as error:
        message, fields = str(error), {"moe_router_topk": 1}
    trains = fields.get("moe_router_score_function") == "sigmoid" or fields.get("moe_router_pre_softmax")
    expected = re.match(r"small: (num_experts_per_tok|moe_k|moe_topk) = 1: the weights of .* sum to 1", message)
    assert bool(expected) == (fields.get("moe_router_topk") == 1 and not trains), message


def test_a_value_that_the_file_does_not_have_is_said_to_be_a_default() -> None:
    values = {"model_type": "hunyuan_v1_moe"}
    with pytest.raises(ModelError, match="moe_topk = 1 by default: the weights"):
        from_hf_config("hunyuan", HFConfig(origin="small", values=values))


@pytest.mark.parametrize("name", architectures.names())
def test_a_built_in_architecture_is_of_a_known_family(name: str) -> None:
    path = architectures.path_of(name)
    assert path is not None
    config = read_config(path)
    assert family_of(config).convert(config).config["num_layers"] > 0


def test_every_kind_of_model_has_a_builder() -> None:
    assert BUILDERS.keys() == set(ModelKind) - {ModelKind.USER_FUNCTION}
    assert [kind.value for kind in ModelKind] == ["gpt", "gemma2", "hybrid", "mamba", "callable", "bridge"], (
        "plans on disk have these"
    )


def test_a_model_type_that_nobody_knows_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ModelError, match=re.escape("not supported. Did you mean llama?")):
        family_of(HFConfig(origin="c.json", values={"model_type": "lama"}))


def test_a_norm_over_all_key_heads_needs_a_key_head_on_every_rank() -> None:
    values = {"model_type": "olmo2", **SMALL, "num_key_value_heads": 2}
    definition = from_hf_config("small", HFConfig(origin="small", values=values))
    definition.check(Layout(tp=2))
    with pytest.raises(LayoutError, match=r"tp = 4 and num_query_groups = 2 of small: the norm over all key heads"):
        definition.check(Layout(tp=4))
