"""Nemotron-H: each layer is a Mamba-2 mixer, an attention block, an MLP or a mixture of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.families.base.conversion import Conversion
from clora.families.base.decoder import ACTIVATIONS, COMMON_DEFAULTS, decoder_config, model_sizes
from clora.families.base.experts import routed_experts
from clora.families.base.family import Family
from clora.families.base.linear_names import ATTENTION, UNGATED, LinearNames
from clora.families.base.model_kind import ModelKind
from clora.families.sparse.deepseek import prediction_layers_note
from clora.limits import LARGEST_LAYERS

if TYPE_CHECKING:
    from clora.families.base.hf_config import HFConfig

SYMBOLS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
"""megatron-core's pattern letters -> Hugging Face's `layers_block_type`."""

_WORDS = {word: letter for letter, word in SYMBOLS.items()} | {"linear_attention": "M", "full_attention": "*"}
"""Words of `layers_block_type` -> pattern letters. transformers 5 has its own for two of them."""

_ALIASES = {
    "layer_types": "layers_block_type",
    "num_local_experts": "n_routed_experts",
    "mamba_n_groups": "n_groups",
    "mamba_d_conv": "conv_kernel",
    "mamba_conv_bias": "use_conv_bias",
}
"""Other names under which transformers reads a field."""

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 21504,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "num_key_value_heads": 8,
    "mlp_hidden_act": "relu2",
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "mamba_proj_bias": False,
    "num_nextn_predict_layers": 0,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
}

# `MambaMixer` has this width as a default, and megatron-core's specs do not set another.
_CONV_KERNEL = 4


def nemotron_h(hf: HFConfig) -> Conversion:
    """Convert a `NemotronHForCausalLM`. It has no position embeddings."""
    hf = _with_usual_names(hf.with_defaults(_DEFAULTS))
    if not hf.flag("use_conv_bias"):
        raise hf.error("use_conv_bias", "megatron-core's Mamba layers are built with a bias in the convolution.")
    for bias in ("use_bias", "mlp_bias", "attention_bias", "mamba_proj_bias"):
        if hf.flag(bias):
            raise hf.error(bias, "Nemotron-H with biases is not supported; no released model has them.")
    if hf.size("conv_kernel") != _CONV_KERNEL:
        raise hf.error("conv_kernel", f"megatron-core's Mamba layers are built with a kernel of {_CONV_KERNEL}.")
    pattern = layer_pattern(hf)
    # Some files leave the number out, because the pattern implies it.
    hf = hf.with_defaults(hf.defaults | {"num_hidden_layers": len(pattern)})
    fields = {
        "gated_linear_unit": False,
        "activation_func": hf.word("mlp_hidden_act", ACTIVATIONS),
        "is_hybrid_model": True,
        "mamba_state_dim": hf.size("ssm_state_size"),
        "mamba_head_dim": hf.size("mamba_head_dim"),
        "mamba_num_heads": hf.size("mamba_num_heads"),
        "mamba_num_groups": hf.size("n_groups"),
    }
    model = model_sizes(hf) | {"position_embedding_type": "none", "hybrid_override_pattern": pattern}
    experts = _experts(hf) if "E" in pattern else {}
    notes = prediction_layers_note(hf, can_be_built=False)
    return Conversion(config=decoder_config(hf) | fields | experts, model=model, notes=notes)


def layer_pattern(hf: HFConfig) -> str:
    """Return one letter of `SYMBOLS` for each layer.

    Raises:
        ModelError: a letter or word is unknown, or there are not `num_hidden_layers` of them.
    """
    written = hf.get("num_hidden_layers") is not None
    layers = hf.size("num_hidden_layers", largest=LARGEST_LAYERS) if written else None
    if hf.get("hybrid_override_pattern") is None and hf.get("layers_block_type") is not None:
        return "".join(hf.words("layers_block_type", _WORDS, layers))
    pattern = hf.text("hybrid_override_pattern")
    unknown = set(pattern) - set(SYMBOLS)
    if unknown:
        raise hf.error("hybrid_override_pattern", f"{min(unknown)!r} is none of {' '.join(SYMBOLS)}.")
    if layers is not None and len(pattern) != layers:
        raise hf.error("hybrid_override_pattern", f"has {len(pattern)} layers and num_hidden_layers is {layers}.")
    return pattern


def _with_usual_names(hf: HFConfig) -> HFConfig:
    aliases = {name: hf.values[alias] for alias, name in _ALIASES.items() if alias in hf.values}
    hf = msgspec.structs.replace(hf, values=aliases | hf.values)
    # Some releases of the family have their own names for these two fields.
    renamed = {"head_dim": hf.get("head_dim") or hf.get("attention_head_dim") or 128}
    if hf.get("layer_norm_epsilon") is not None:
        renamed["rms_norm_eps"] = hf.get("layer_norm_epsilon")
    elif "rms_norm_eps" not in hf.values:
        renamed["rms_norm_eps"] = 1e-5
    return hf.with_defaults(hf.defaults | renamed)


def _experts(hf: HFConfig) -> dict[str, Any]:
    width = "moe_shared_expert_intermediate_size"
    # All shared experts are one of this width, however many `n_shared_experts` says.
    has_shared = hf.get("n_shared_experts") is not None
    fields: dict[str, Any] = {
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_load_balancing_type": "seq_aux_loss",
        "moe_router_dtype": "fp32",
        "moe_router_topk_scaling_factor": hf.number("routed_scaling_factor"),
        "moe_shared_expert_intermediate_size": hf.size(width) if has_shared else None,
        "moe_latent_size": hf.optional_size("moe_latent_size"),
    }
    if hf.size("n_group") > 1:
        fields |= {"moe_router_num_groups": hf.size("n_group"), "moe_router_group_topk": hf.size("topk_group")}
    return routed_experts(hf, "n_routed_experts", width="moe_intermediate_size") | fields


FAMILIES = (
    Family(
        model_types=("nemotron_h",),
        convert=nemotron_h,
        builds=ModelKind.MAMBA,
        names=LinearNames(
            layers="backbone.layers",
            layers_in_transformers_5="model.layers",
            has_single_blocks=True,
            # A layer is one block, which is called `mixer` whatever it is.
            attention={linear: path.replace("self_attn", "mixer") for linear, path in ATTENTION.items()},
            mamba={"in_proj": "mixer.in_proj"},
            mlp="mixer",
            projections=UNGATED,
            experts="mixer.experts",
            shared_experts="mixer.shared_experts",
        ),
    ),
)
