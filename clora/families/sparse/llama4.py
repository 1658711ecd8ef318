"""The text model of Llama 4: experts next to a shared one, and layers without rotary embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.experts import routed_experts
from clora.families.base.family import Family
from clora.families.base.linear_names import LinearNames
from clora.families.base.rope import layers_with_rope, without_rope

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 202048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
    "router_aux_loss_coef": 0.001,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
}


def llama4_text(hf: HFConfig) -> Conversion:
    """Convert a `Llama4ForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    if hf.size("num_experts_per_tok") != 1:
        raise hf.error("num_experts_per_tok", "megatron-core scales the experts' input for one expert a token only.")
    # An empty list stands for the default, as null does.
    has_rope = layers_with_rope(hf, written=bool(hf.get("no_rope_layers")))
    fields = {
        "ffn_hidden_size": hf.size("intermediate_size_mlp"),
        "moe_shared_expert_intermediate_size": hf.size("intermediate_size"),
        "moe_router_score_function": "sigmoid",
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": hf.number("router_aux_loss_coef"),
        # A score multiplies the input of its expert, not the output.
        "moe_apply_probs_on_input": True,
        "qk_l2_norm": hf.flag("use_qk_norm"),
        "rotary_interleaved": True,
    }
    fields |= without_rope(has_rope)
    routed = routed_experts(hf, "num_local_experts", width="intermediate_size")
    conversion = decoder(hf, routed | fields | {"moe_layer_freq": _sparse_layers(hf)})
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, *_attention_notes(hf, has_rope)))


def _sparse_layers(hf: HFConfig) -> int | list[int]:
    layers, every = hf.size("num_hidden_layers"), hf.size("interleave_moe_layer_step")
    written = hf.get("moe_layers") is not None
    with_experts = set(hf.sizes("moe_layers")) if written else set(range(every - 1, layers, every))
    sparse = [int(layer in with_experts) for layer in range(layers)]
    if not any(sparse):
        raise hf.error("moe_layers", "leaves no layer with experts.")
    return 1 if all(sparse) else sparse


def _attention_notes(hf: HFConfig, has_rope: list[bool]) -> list[Any]:
    notes = []
    if hf.get("attention_chunk_size") is not None:
        notes.append(
            f"Layers with rotary embeddings attend within chunks of {hf.size('attention_chunk_size'):,} tokens there, "
            "and to all earlier tokens in megatron-core."
        )
    # Older files have a number here, and the class asks whether it is true.
    if not all(has_rope) and hf.get("attn_temperature_tuning"):
        notes.append("Layers without rotary embeddings scale their queries by position there, and not here.")
    if not all(has_rope) and hf.flag("use_qk_norm"):
        notes.append("Layers without rotary embeddings normalise query and key heads here, and not there.")
    return notes


FAMILIES = (
    Family(
        model_types=("llama4_text",),
        convert=llama4_text,
        names=LinearNames(mlp="feed_forward", shared_experts="feed_forward.shared_expert", has_packed_experts=True),
    ),
)
