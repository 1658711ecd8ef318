"""Fields of a mixture of experts that all its families share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora.families.base.hf_config import HFConfig


def routed_experts(hf: HFConfig, number: str, *, width: str, chosen: str = "num_experts_per_tok") -> dict[str, Any]:
    """Return the fields for experts behind a top-k router, in every layer.

    Args:
        hf: the config, over its family's defaults.
        number: the field that holds the number of experts in a layer.
        width: the field that holds the width of one expert.
        chosen: the field that holds the number of experts for a token.

    Raises:
        ModelError: more experts per token than experts.
    """
    num_experts, topk = hf.size(number), hf.size(chosen)
    if topk > num_experts:
        raise hf.error(chosen, f"cannot exceed {number} = {num_experts}.")
    return {
        # Large jobs keep the experts of a rank in one grouped linear. Users who want a module for
        # each expert override moe_grouped_gemm.
        "moe_grouped_gemm": True,
        "moe_token_dispatcher_type": "alltoall",
        "num_moe_experts": num_experts,
        "moe_router_topk": topk,
        "moe_ffn_hidden_size": hf.size(width),
        "moe_layer_freq": 1,
    }


def softmax_router(hf: HFConfig, *, is_normalised: bool, chosen: str = "num_experts_per_tok") -> dict[str, Any]:
    """Return the field of a router with a softmax.

    Args:
        hf: the config, over its family's defaults.
        is_normalised: whether the weights of the chosen experts sum to 1. A softmax over the chosen
            experts gives the same weights.
        chosen: the field that holds the number of experts for a token.

    Raises:
        ModelError: one expert is chosen, and its weight is always 1.
    """
    if is_normalised and hf.size(chosen) == 1:
        raise hf.error(
            chosen,
            "the weights of the chosen experts sum to 1 here, so the one expert of a token always has weight 1. "
            "megatron-core refuses such a router, which nothing can train.",
        )
    return {"moe_router_pre_softmax": not is_normalised}
