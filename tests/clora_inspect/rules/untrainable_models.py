"""Models of a user's functions that megatron-core builds and cannot train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.job.layout import Layout


SMALL: dict[str, Any] = {
    "num_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "add_bias_linear": False,
    "params_dtype": torch.float32,
}


def model_of(config: TransformerConfig) -> nn.Module:
    spec = get_gpt_layer_with_transformer_engine_spec(
        num_experts=config.num_moe_experts, moe_grouped_gemm=config.moe_grouped_gemm
    )
    model: nn.Module = GPTModel(config, spec, vocab_size=64, max_sequence_length=64, position_embedding_type="rope")
    return model


def plain(*, deferred: bool = False) -> nn.Module:
    config = TransformerConfig(**SMALL)
    # The constructor asks for a pipeline and for kernels of Apex.
    config.defer_embedding_wgrad_compute = deferred
    return model_of(config)


def unknown_routing(**words: Any) -> nn.Module:
    """Build experts whose router has words in its config that megatron-core does not know."""
    return model_of(
        TransformerConfig(
            **SMALL,
            num_moe_experts=4,
            moe_router_topk=2,
            moe_ffn_hidden_size=32,
            moe_grouped_gemm=True,
            moe_token_dispatcher_type="alltoall",
            moe_router_load_balancing_type="none",
            **words,
        )
    )


def unknown_scores() -> nn.Module:
    return unknown_routing(moe_router_score_function="softmx")


def unknown_policy() -> nn.Module:
    return unknown_routing(moe_token_drop_policy="prob", moe_expert_capacity_factor=1.0)


def known_routing() -> nn.Module:
    return unknown_routing(moe_token_drop_policy="probs", moe_expert_capacity_factor=1.0)


def deferred() -> nn.Module:
    return plain(deferred=True)


def experts(layout: Layout) -> nn.Module:
    """Build experts on the ranks of `layout`, without sequence parallelism whatever it says."""
    return model_of(
        TransformerConfig(
            **SMALL,
            tensor_model_parallel_size=layout.tp,
            expert_tensor_parallel_size=layout.etp,
            num_moe_experts=4,
            moe_ffn_hidden_size=32,
            moe_grouped_gemm=True,
        )
    )
