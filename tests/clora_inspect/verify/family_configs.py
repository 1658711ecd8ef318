"""A small config of every family. A field of one means nothing to the others, so one serves nearly
all.
"""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 40,
    "n_group": 1,
}
LATENT = {
    "head_dim": 4,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "num_key_value_heads": 8,
}
INDEXER = {**LATENT, "index_n_heads": 4, "index_head_dim": 16}
MAMBA = {"mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 16}
OTHER: dict[str, dict[str, Any]] = {
    "llama4_text": {"num_experts_per_tok": 1},
    "gpt_oss": {"attention_bias": True},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "glm4_moe_lite": LATENT,
    "kimi_k2": LATENT,
    "deepseek_v32": INDEXER,
    "glm_moe_dsa": INDEXER,
    "granitemoehybrid": {"layer_types": ["attention"] * 4},
    "nemotron_h": {"hybrid_override_pattern": "M*-E", **MAMBA},
}

VARIATIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "tied": {"tie_word_embeddings": True},
    "attention bias": {"attention_bias": True},
    "untied": {"tie_word_embeddings": False},
    "no attention bias": {"attention_bias": False},
    "biases everywhere": {"mlp_bias": True, "attention_bias": True},
    "MLP bias": {"mlp_bias": True},
    "use_bias": {"use_bias": True},
    "no use_bias": {"use_bias": False},
    "no qkv_bias": {"qkv_bias": False},
    "output bias": {"attention_out_bias": True, "attention_bias": True},
    "one key head": {"num_key_value_heads": 1},
    "all key heads": {"num_key_value_heads": 8},
    "wide heads": {"head_dim": 16},
    "one layer": {"num_hidden_layers": 1},
    "seven layers": {"num_hidden_layers": 7},
    "window": {"sliding_window": 8, "use_sliding_window": True},
    "no window": {"sliding_window": None},
    "partial rotary": {"partial_rotary_factor": 0.5},
    "some dense layers": {"mlp_only_layers": [0, 2], "first_k_dense_replace": 2, "moe_layer_start_index": 2},
    "every second layer": {"decoder_sparse_step": 2, "interleave_moe_layer_step": 2, "moe_layer_interval": 2},
    "no shared experts": {"n_shared_experts": 0, "moe_num_shared_experts": 0},
    "two shared experts": {"n_shared_experts": 2, "moe_num_shared_experts": 2},
    "query and key norms": {"use_qk_norm": True},
}
"""Name -> fields that one or another family reads."""

NEWER = (
    *("deepseek_v32", "exaone_moe", "glm4_moe_lite", "glm4v_moe_text", "glm_moe_dsa", "minimax_m2", "ministral3"),
    *("nemotron_h", "qwen3_5_text", "qwen3_5_moe_text"),
)
"""Families whose counts are those of a newer transformers than the pinned one."""


def small_config(model_type: str) -> dict[str, Any]:
    """The values of a small config.json of the family."""
    return {"model_type": model_type, **BASE, **OTHER.get(model_type, {})}
