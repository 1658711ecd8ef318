"""Name the activations that a job recomputes in one word, `none`, `selective` or `full`, with its
settings. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

GRAMMAR = r"none|selective(:[a-z_]+(,[a-z_]+)*)?|full(:(uniform|block)(:[1-9][0-9]{0,3})?)?"
SHOWN = "none|selective[:MODULES]|full[:uniform|block[:N]]"


def is_recompute(text: str) -> bool:
    """Return whether `text` says what is recomputed."""
    return re.fullmatch(GRAMMAR, text) is not None


def recompute_fields(text: str) -> dict[str, Any]:
    """Return megatron-core's fields for what `text` says. All four are set, because a field that
    goes with another granularity is an error.

    Args:
        text: matches `GRAMMAR`. `selective` alone recomputes core attention, `full` alone one layer
            at a time.
    """
    granularity, *more = text.split(":")
    fields: dict[str, Any] = dict.fromkeys(
        ("recompute_granularity", "recompute_method", "recompute_num_layers", "recompute_modules")
    )
    if granularity == "none":
        return fields
    fields["recompute_granularity"] = granularity
    if granularity == "selective":
        return fields | {"recompute_modules": more[0].split(",") if more else ["core_attn"]}
    method, number = (*more, *("uniform", "1")[len(more) :])
    return fields | {"recompute_method": method, "recompute_num_layers": int(number)}


def recompute_text(fields: Mapping[str, Any]) -> str:
    """Return what megatron-core's fields say, in the words of `GRAMMAR`."""
    granularity = fields.get("recompute_granularity")
    if granularity == "selective":
        modules = ",".join(fields.get("recompute_modules") or ["core_attn"])
        return "selective" if modules == "core_attn" else f"selective:{modules}"
    if granularity != "full":
        return "none"
    method, number = fields.get("recompute_method") or "uniform", fields.get("recompute_num_layers") or 1
    return "full" if (method, number) == ("uniform", 1) else f"full:{method}:{number}"
