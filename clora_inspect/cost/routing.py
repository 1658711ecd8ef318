"""Decide which tokens the router of a mixture of experts sends where, on the meta device.

Routing depends on data. Here each expert gets as many tokens as any other, or one of them more.
"""

from __future__ import annotations

from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.cost.known_values import KnownValues, give

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def even_routing(imbalance: float = 1.0) -> Iterator[None]:
    """Route tokens evenly inside.

    Args:
        imbalance: tokens of the fullest expert, as a multiple of the mean of all experts. It is the
            first expert of the first expert-parallel rank.
    """
    maps: dict[tuple[int, int, int, int | None], torch.Tensor] = {}

    def route(module: torch.nn.Module, _args: object, output: Any) -> None:
        chosen = _routing_map(module, output)
        if chosen is None:
            return
        # No class of megatron-core declares its config's fields to us.
        config: Any = module.config
        tokens, experts = chosen.shape
        factor = config.moe_expert_capacity_factor
        # As `get_capacity` of megatron-core computes it, to the last rounding.
        most = None if factor is None else ceil(tokens * config.moe_router_topk / experts * factor)
        key = (tokens, experts, config.moe_router_topk, most)
        if key not in maps:
            counts = tokens_per_expert(tokens, experts, config.moe_router_topk, imbalance, most)
            if most is not None and config.moe_pad_expert_input_to_capacity:
                counts = [min(most, tokens)] * experts
            maps[key] = routing_map(tokens, counts)
        give(chosen, maps[key])

    handle = torch.nn.modules.module.register_module_forward_hook(route)
    try:
        with KnownValues():  # type: ignore[no-untyped-call]
            yield
    finally:
        handle.remove()


def _routing_map(module: torch.nn.Module, output: Any) -> torch.Tensor | None:
    """Return the map `[tokens, experts]` in what a router returned; None for other modules."""
    if not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], torch.Tensor)):
        return None
    chosen = output[1]
    config: Any = getattr(module, "config", None)
    experts = getattr(config, "num_moe_experts", None)
    if chosen.dtype is not torch.bool or chosen.dim() != 2 or chosen.shape[1] != experts:
        return None
    return chosen if chosen.device.type == "meta" else None


def tokens_per_expert(tokens: int, experts: int, topk: int, imbalance: float, most: int | None) -> list[int]:
    """Return how many tokens each expert gets from one rank.

    Args:
        tokens: tokens on the rank.
        experts: number of experts.
        topk: experts that each token goes to.
        imbalance: tokens of the first expert, as a multiple of the mean.
        most: capacity of an expert; None for no limit.
    """
    pairs = tokens * topk
    fullest = min(tokens, round(imbalance * pairs / experts))
    rest = pairs - fullest
    others = max(experts - 1, 1)
    counts = [fullest, *(rest * (i + 1) // others - rest * i // others for i in range(experts - 1))]
    return counts if most is None else [min(count, most) for count in counts]


def routing_map(tokens: int, counts: list[int]) -> torch.Tensor:
    """Return a map `[tokens, experts]` in which expert e has `counts[e]` tokens.

    The pairs of tokens and experts are dealt out in turn, so that tokens have equal numbers of
    experts.
    """
    chosen = torch.zeros(len(counts), tokens, dtype=torch.bool, device="cpu")
    start = 0
    for expert, count in enumerate(counts):
        end = start + count
        chosen[expert, start : min(end, tokens)] = True
        chosen[expert, : max(end - tokens, 0)] = True
        start = end % tokens
    return chosen.T.contiguous()
