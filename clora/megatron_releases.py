"""The releases of megatron-core that are supported, and what differs between them for the library.
Pure.

`clora.linears` reads modules by these tables and functions. Each difference is found by looking at
what a module or a config has, not by the number of its release. A way to split or pack a weight
that is not known here is refused, because a wrong guess would be a wrong adapter.
"""

from __future__ import annotations

from typing import Any

SUPPORTED = ("0.16.0", "0.16.1", "0.17.1", "0.18.2", "0.19.0", "0.20.0")
"""Releases that the tests were run with, the oldest first; the last is megatron-core's main branch.
Names and shapes of modules mostly stay as they are within a series such as 0.16, so each stands for
its whole series.
"""

PINNED = "0.16.1"
"""The one of them that constraints.txt pins, with which every change is tested."""

BLOCKS = frozenset(
    {
        "megatron.core.transformer.transformer_block.TransformerBlock",
        "megatron.core.ssm.mamba_block.MambaStack",
        # Its name from 0.18.
        "megatron.core.models.hybrid.hybrid_block.HybridStack",
    }
)
"""Stacks of layers, which activation recomputation cuts into pieces."""


def series(release: str) -> str:
    """Return the part that all releases of a series share: "0.16." for "0.16.1"."""
    major, minor, _ = release.split(".", 2)
    return f"{major}.{minor}."


def supported_series() -> str:
    """Return the supported series for a message: "0.16, 0.17"."""
    return ", ".join(dict.fromkeys(series(release).rstrip(".") for release in SUPPORTED))


def is_supported(release: str) -> bool:
    """Return whether the tests were run with a release of this series."""
    return release.startswith(tuple(map(series, SUPPORTED)))


def unknown_split(config: Any, *, is_expert: bool) -> str | None:
    """Return what splits the weights of a linear beside its tensor-parallel axis, for a message;
    None where nothing does.
    """
    # From 0.19: weights are split further, and gathered for each use.
    field = "expert_gtp_weight_remat_size" if is_expert else "gtp_weight_remat_size"
    size = getattr(config, field, 1)
    return f"its weight is split further over {size} ranks ({field})" if size > 1 else None


def unknown_packing(config: Any, segments: list[str]) -> str | None:
    """Return how a `linear_fc1` with a gate is packed otherwise than gate before up, for a message;
    None where it is not.

    Args:
        config: megatron-core's config.
        segments: the names in the path of the linear.
    """
    # From 0.18 for routed experts, from 0.19 for shared ones.
    place = "moe_shared_expert" if "shared_experts" in segments else "moe_mlp" if "experts" in segments else None
    block = None if place is None else getattr(config, f"{place}_glu_interleave_size", None)
    return f"gate and up alternate in blocks of {block} rows ({place}_glu_interleave_size)" if block else None
