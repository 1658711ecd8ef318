"""Draw architectures: the config.json of every family that clora knows, at tiny sizes, and fields
of megatron-core on top.

Most of what is drawn can be built. Some cannot, as some of what users write cannot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from clora.families import families
from clora.families.base.hf_config import HFConfig

# A field of one family means nothing to the others, so one config serves them all.
_ANY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size_mlp": 48,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    # A router that normalises the weights of one expert is refused.
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    "n_group": 1,
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    "moe_num_shared_experts": 1,
    "first_k_dense_replace": 0,
    "hybrid_override_pattern": "M-",
}


_SETTLED: dict[str, dict[str, Any]] = {
    "llama4_text": {"num_experts_per_tok": 1},
    # The default of these is refused.
    "bailing_moe": {"use_bias": False},
    "granitemoehybrid": {"layer_types": ["attention"] * 2},
}
"""Value of `model_type` -> fields of which only one value can be planned."""


def _families_with(name: str) -> frozenset[str]:
    """Return the `model_type`s whose models set a field of megatron-core."""
    return frozenset(
        model_type
        for model_type, family in families().items()
        if family.convert(
            HFConfig(origin="any", values={**_ANY, "model_type": model_type, **_SETTLED.get(model_type, {})})
        ).config.get(name)
    )


MIXTURES = _families_with("num_moe_experts")
"""Values of `model_type` whose models always have routed experts."""
LATENT = _families_with("multi_latent_attention")
DELTA_NETS = _families_with("linear_num_key_heads")


@dataclass(frozen=True)
class Architecture:
    """A config.json, and what the user sets on top of it."""

    model_type: str
    values: dict[str, Any]
    """The fields of config.json."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of megatron-core: `--set model.NAME=VALUE`."""

    @property
    def has_experts(self) -> bool:
        return (
            self.model_type in MIXTURES
            or "E" in self.values.get("hybrid_override_pattern", "")
            or "num_moe_experts" in self.overrides
        )

    @property
    def experts(self) -> int:
        """Routed experts of a layer; 0 without any."""
        return self.overrides.get("num_moe_experts", self.values["num_experts"]) if self.has_experts else 0

    @property
    def layers(self) -> int:
        """Layers of the decoder."""
        return self.overrides.get("num_layers", self.values["num_hidden_layers"])


def sometimes(draw: Any, percent: int) -> bool:
    """Return true in about `percent` of 100 draws. It shrinks to false."""
    return draw(st.integers(0, 99)) >= 100 - percent


@st.composite
def architectures(draw: Any) -> Architecture:
    model_type = draw(st.sampled_from(sorted(families())))
    values = {"model_type": model_type, **_sizes(draw), **_experts(draw), **_mixers(draw)}
    values |= _latent_attention(draw) if model_type in LATENT else {}
    values |= _layers(draw, model_type, values)
    values |= _SETTLED.get(model_type, {})
    if model_type == "granitemoehybrid":
        values["layer_types"] = ["attention"] * values["num_hidden_layers"]
    if model_type == "olmoe":
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    architecture = Architecture(model_type, values)
    return Architecture(model_type, values, _overrides(draw, architecture))


def _sizes(draw: Any) -> dict[str, Any]:
    heads = draw(st.sampled_from([4, 8, 2, 6, 1, 3, 16]))
    groups = draw(st.sampled_from([number for number in (2, 1, 4, 3, 8, 16, 6) if heads % number == 0]))
    values = {
        "vocab_size": draw(st.sampled_from([64, 128, 96])) if not sometimes(draw, 4) else 61,
        "hidden_size": draw(st.sampled_from([48, 96])),
        "intermediate_size": draw(st.sampled_from([48, 96, 40])),
        "num_hidden_layers": draw(st.integers(1, 6)),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": draw(st.sampled_from([8, 16, 4])),
        "max_position_embeddings": 64,
        "tie_word_embeddings": draw(st.booleans()),
    }
    for bias in ("attention_bias", "mlp_bias", "use_bias", "qkv_bias"):
        if sometimes(draw, 8):
            values[bias] = draw(st.booleans())
    if sometimes(draw, 8):
        values["hidden_act"] = draw(st.sampled_from(["gelu", "relu2", "gelu_pytorch_tanh"]))
    if sometimes(draw, 15):
        values |= {"sliding_window": 7, "use_sliding_window": draw(st.booleans())}
    return values


def _experts(draw: Any) -> dict[str, Any]:
    experts = draw(st.sampled_from([8, 4, 2, 6, 16]))
    chosen = draw(st.sampled_from([number for number in (2, 4, 3, 2, 1) if number <= experts]))
    width, shared = draw(st.sampled_from([16, 32, 24])), draw(st.sampled_from([16, 32]))
    groups = draw(st.sampled_from([number for number in (1, 2, 4) if experts % number == 0 and experts > number]))
    values = {
        # Each family has names of its own, and reads no others.
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), experts),
        **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), chosen),
        **dict.fromkeys(("n_shared_experts", "moe_num_shared_experts"), draw(st.integers(0, 2))),
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": shared,
        "moe_shared_expert_intermediate_size": shared,
        "intermediate_size_mlp": 48,
        "n_group": groups,
        "topk_group": draw(st.integers(1, groups)),
        "norm_topk_prob": draw(st.booleans()),
    }
    if sometimes(draw, 30):
        values["topk_method"] = draw(st.sampled_from(["greedy", "noaux_tc", "group_limited_greedy"]))
    return values


def _latent_attention(draw: Any) -> dict[str, Any]:
    return {
        "q_lora_rank": draw(st.sampled_from([None, 16, 24])),
        "kv_lora_rank": draw(st.sampled_from([8, 16])),
        "qk_nope_head_dim": draw(st.sampled_from([8, 16])),
        "qk_rope_head_dim": 4,
        "v_head_dim": draw(st.sampled_from([8, 12])),
    }


def _mixers(draw: Any) -> dict[str, Any]:
    """Return the sizes of Mamba mixers and gated delta nets."""
    groups, keys = draw(st.sampled_from([2, 4, 1])), draw(st.sampled_from([2, 4, 1]))
    return {
        "n_groups": groups,
        "mamba_num_heads": groups * draw(st.sampled_from([2, 4, 1])),
        "mamba_head_dim": draw(st.sampled_from([8, 16])),
        "ssm_state_size": draw(st.sampled_from([8, 16])),
        "linear_num_key_heads": keys,
        "linear_num_value_heads": keys * draw(st.sampled_from([1, 2])),
        "linear_key_head_dim": 8,
        "linear_value_head_dim": draw(st.sampled_from([8, 16])),
    }


def _layers(draw: Any, model_type: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that say something of single layers."""
    count = values["num_hidden_layers"]
    if model_type == "nemotron_h":
        letters = draw(st.sampled_from(["M*-", "M", "M*-E", "*-", "ME"]))
        pattern = "".join(draw(st.lists(st.sampled_from(letters), min_size=count, max_size=count)))
        return {"hybrid_override_pattern": pattern}
    fields: dict[str, Any] = {
        "first_k_dense_replace": draw(st.integers(0, max(0, count - 1))),
        "decoder_sparse_step": 1,
        "interleave_moe_layer_step": 1,
    }
    if sometimes(draw, 25):
        fields["decoder_sparse_step"] = fields["interleave_moe_layer_step"] = draw(st.integers(1, 3))
    if sometimes(draw, 25):
        fields["mlp_only_layers"] = sorted(draw(st.sets(st.integers(0, count - 1), max_size=2)))
    if sometimes(draw, 20):
        fields["moe_layer_freq"] = draw(st.integers(1, 3))
    if sometimes(draw, 30):
        other = "linear_attention" if model_type in DELTA_NETS else "sliding_attention"
        words = st.sampled_from(["full_attention", other])
        fields["layer_types"] = draw(st.lists(words, min_size=count, max_size=count))
    if model_type == "ernie4_5_moe":
        fields["moe_layer_start_index"] = draw(st.integers(0, count - 1))
    return fields


def _overrides(draw: Any, architecture: Architecture) -> dict[str, Any]:
    """Return fields of megatron-core, each of them seldom."""
    fields: dict[str, Any] = {}
    if not architecture.has_experts and architecture.model_type != "nemotron_h" and sometimes(draw, 8):
        fields |= {"num_moe_experts": architecture.values["num_experts"], "moe_router_topk": 2}
    if (architecture.has_experts or fields) and sometimes(draw, 40):
        fields["moe_grouped_gemm"] = False
    for percent, name, values in (
        (15, "mtp_num_layers", (1, 1, 2)),
        (6, "num_layers", (1, 2, 3, 4)),
        (6, "qk_layernorm", (True, False)),
        (6, "add_qkv_bias", (True, False)),
        (6, "add_bias_linear", (True, False)),
        (6, "share_embeddings_and_output_weights", (True, False)),
        (6, "moe_shared_expert_intermediate_size", (16, 32, None)),
        (6, "moe_shared_expert_gate", (True, False)),
        (4, "moe_shared_expert_overlap", (True, False)),
        (4, "moe_token_dispatcher_type", ("allgather", "alltoall")),
        (4, "attention_output_gate", (True, False)),
        (4, "num_query_groups", (1, 2)),
        (4, "params_dtype", ("float32", "float16")),
        (4, "moe_router_topk", (1, 2)),
        (4, "num_moe_experts", (None, 4)),
        (4, "gated_linear_unit", (True, False)),
    ):
        if sometimes(draw, percent):
            fields[name] = draw(st.sampled_from(values))
    return fields
