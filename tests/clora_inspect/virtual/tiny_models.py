"""Build small models of all kinds from megatron-core's own Transformer Engine specs.

Call the functions inside of the virtual world and a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora_inspect.machine.quiet import quiet

if TYPE_CHECKING:
    import torch

    from clora_inspect.job.layout import Layout

VOCABULARY = 256
SEQUENCE = 16
BATCH = 2

MOE = {
    "num_moe_experts": 8,
    "moe_grouped_gemm": True,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 64,
    "moe_token_dispatcher_type": "alltoall",
    "moe_shared_expert_intermediate_size": 64,
    "moe_router_load_balancing_type": "none",
}
MLA = {
    "multi_latent_attention": True,
    "num_query_groups": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_head_dim": 16,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": 16,
    "qk_layernorm": True,
}
GATED_DELTA_NET = {
    "experimental_attention_variant": "gated_delta_net",
    "linear_attention_freq": 2,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "attention_output_gate": True,
}
MAMBA = {"num_layers": 4, "mamba_head_dim": 16, "mamba_num_groups": 2, "mamba_state_dim": 16}

KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "dense-layernorm-bias": {
        "normalization": "LayerNorm",
        "add_bias_linear": True,
        "gated_linear_unit": False,
        "qk_layernorm": True,
    },
    "moe": MOE,
    "mla": MLA,
    "mla-moe-mtp": {**MLA, **MOE, "mtp_num_layers": 1},
    "sinks-and-window": {"softmax_type": "learnable", "window_size": (4, 0), "window_attn_skip_freq": 2},
}
"""Kind -> fields of its config, for the kinds whose forward runs on the CPU."""

MESH_KINDS: dict[str, dict[str, Any]] = {**KINDS, "qwen3-next": {**GATED_DELTA_NET, **MOE}, "mamba": MAMBA}
"""All kinds, with those that are only built."""


def config(layout: Layout, device: str, *, dtype: torch.dtype | None = None, **fields: Any) -> Any:
    """Return a `TransformerConfig` for `layout` with two layers per stage and hidden size 64.

    By default parameters are bfloat16 on meta and float32 elsewhere. `fields` go before the
    defaults.
    """
    import torch
    from megatron.core.transformer import MLATransformerConfig, TransformerConfig

    dtype = dtype or (torch.bfloat16 if device == "meta" else torch.float32)
    fields = {
        "num_layers": 2 * layout.pp,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "ffn_hidden_size": 128,
        "gated_linear_unit": True,
        "activation_func": torch.nn.functional.silu,
        "normalization": "RMSNorm",
        "add_bias_linear": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "context_parallel_size": layout.cp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.expert_tp,
        "sequence_parallel": layout.sequence_parallel,
        "pipeline_dtype": dtype,
        "params_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "init_model_with_meta_device": device == "meta",
        "perform_initialization": device != "meta",
        **fields,
    }
    config_class = MLATransformerConfig if fields.get("multi_latent_attention") else TransformerConfig
    return config_class(**fields)


def build(kind: str, layout: Layout, device: str = "meta", *, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Build this rank's part of a model of `kind`: one pipeline stage."""
    import torch

    with quiet(), torch.device(device):
        return _mamba(layout, device, dtype) if kind == "mamba" else _gpt(kind, layout, device, dtype)


def _mamba(layout: Layout, device: str, dtype: torch.dtype | None) -> torch.nn.Module:
    from megatron.core.models.mamba import MambaModel
    from megatron.core.models.mamba.mamba_layer_specs import mamba_stack_spec

    return MambaModel(
        config(layout, device, dtype=dtype, **MAMBA),
        mamba_stack_spec,
        VOCABULARY,
        SEQUENCE,
        hybrid_override_pattern="M*M-",
        share_embeddings_and_output_weights=False,
    )


def _gpt(kind: str, layout: Layout, device: str, dtype: torch.dtype | None) -> torch.nn.Module:
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
        get_transformer_block_with_experimental_attention_variant_spec,
    )
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_mtp_block_spec

    filled = config(layout, device, dtype=dtype, **MESH_KINDS[kind])
    if kind == "qwen3-next":
        spec = get_transformer_block_with_experimental_attention_variant_spec(filled)
    else:
        spec = get_gpt_decoder_block_spec(filled, use_transformer_engine=True)
    last = parallel_state.is_pipeline_last_stage()
    mtp = get_gpt_mtp_block_spec(filled, spec, use_transformer_engine=True) if filled.mtp_num_layers and last else None
    return GPTModel(
        filled,
        spec,
        VOCABULARY,
        SEQUENCE,
        mtp_block_spec=mtp,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=last,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and their positions, `[BATCH, SEQUENCE]` each; the same at each call."""
    import torch

    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(VOCABULARY, (BATCH, SEQUENCE), generator=generator)
    return tokens, torch.arange(SEQUENCE).expand(BATCH, -1)


def loss_of(model: torch.nn.Module) -> torch.Tensor:
    """Return the loss of each token of the batch `[BATCH, SEQUENCE]`, which megatron-core computes
    in float32.
    """
    tokens, positions = batch()
    loss: torch.Tensor = model(tokens, positions, None, labels=tokens.roll(-1, dims=1))
    return loss


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    """Return the logits of the batch `[BATCH, SEQUENCE, VOCABULARY / tp]` in the model's dtype."""
    tokens, positions = batch()
    logits: torch.Tensor = model(tokens, positions, None)
    return logits
