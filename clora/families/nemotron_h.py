"""Nemotron-H: Mamba-2 layers with a few attention, MLP and expert layers between them, one of them
per layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora_inspect.sources.families.conversion import Conversion
from clora_inspect.sources.families.decoder import ACTIVATIONS, FAMILY_INDEPENDENT, decoder_config
from clora_inspect.sources.families.moe import router
from clora_inspect.sources.reader import LARGEST_COUNT

if TYPE_CHECKING:
    from clora_inspect.sources.reader import HFConfig

SYMBOLS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
"""megatron-core's pattern letters -> Hugging Face's `layers_block_type`."""

_DEFAULTS = {
    **FAMILY_INDEPENDENT,
    "max_position_embeddings": 4096,
    "num_key_value_heads": 8,
    "mlp_hidden_act": "relu2",
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
    "conv_kernel": 4,
    "use_bias": False,
    "n_routed_experts": 0,
    "n_shared_experts": 0,
    "n_group": 1,
    "routed_scaling_factor": 1.0,
}

_CONV_KERNEL = 4


def nemotron_h(hf: HFConfig) -> Conversion:
    """`NemotronHForCausalLM`, without position embeddings."""
    hf = _with_usual_names(hf.with_defaults(_DEFAULTS))
    for bias in ("use_bias", "mlp_bias", "attention_bias"):
        if hf.flag(bias):
            raise hf.error(bias, "Nemotron-H with biases is not supported; no released model has them.")
    if hf.size("conv_kernel") != _CONV_KERNEL:
        raise hf.error("conv_kernel", f"megatron-core's Mamba layers are built with a kernel of {_CONV_KERNEL}.")
    pattern = layer_pattern(hf)
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
    model = {
        "vocab_size": hf.size("vocab_size"),
        "max_sequence_length": hf.size("max_position_embeddings"),
        "share_embeddings_and_output_weights": hf.flag("tie_word_embeddings"),
        "position_embedding_type": "none",
        "hybrid_override_pattern": pattern,
    }
    experts = _experts(hf) if "E" in pattern else {}
    return Conversion(family="mamba", config=decoder_config(hf) | fields | experts, model=model)


def layer_pattern(hf: HFConfig) -> str:
    """One letter per layer: M for Mamba, * for attention, - for an MLP, E for experts.

    Raises:
        ModelError: an unknown letter or word, or another number of layers than `num_hidden_layers`.
    """
    said = hf.get("num_hidden_layers")
    layers = hf.size("num_hidden_layers", largest=LARGEST_COUNT) if said is not None else None
    if hf.get("hybrid_override_pattern") is None and hf.get("layers_block_type") is not None:
        letters = {word: letter for letter, word in SYMBOLS.items()}
        return "".join(hf.words("layers_block_type", letters, layers or len(hf.get("layers_block_type"))))
    pattern = hf.text("hybrid_override_pattern")
    unknown = set(pattern) - set(SYMBOLS)
    if unknown:
        raise hf.error("hybrid_override_pattern", f"{min(unknown)!r} is none of {' '.join(SYMBOLS)}.")
    if layers is not None and len(pattern) != layers:
        raise hf.error("hybrid_override_pattern", f"has {len(pattern)} layers and num_hidden_layers is {layers}.")
    return pattern


def _with_usual_names(hf: HFConfig) -> HFConfig:
    """Some Nemotron-H files have their own names for the head dimension and the norm's epsilon."""
    renamed = {"head_dim": hf.get("head_dim") or hf.get("attention_head_dim") or 128}
    if hf.get("layer_norm_epsilon") is not None:
        renamed["rms_norm_eps"] = hf.get("layer_norm_epsilon")
    elif "rms_norm_eps" not in hf.values:
        renamed["rms_norm_eps"] = 1e-5
    return hf.with_defaults(hf.defaults | renamed)


def _experts(hf: HFConfig) -> dict[str, Any]:
    shared = hf.count("n_shared_experts")
    width = "moe_shared_expert_intermediate_size"
    fields: dict[str, Any] = {
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_load_balancing_type": "seq_aux_loss",
        "moe_router_dtype": "fp32",
        "moe_router_topk_scaling_factor": hf.number("routed_scaling_factor"),
        "moe_shared_expert_intermediate_size": shared * hf.size(width) if shared else None,
        "moe_latent_size": hf.optional_size("moe_latent_size"),
    }
    if hf.size("n_group") > 1:
        fields |= {"moe_router_num_groups": hf.size("n_group"), "moe_router_group_topk": hf.size("topk_group")}
    return router(hf, "n_routed_experts", width="moe_intermediate_size") | fields
