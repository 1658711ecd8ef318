"""Suggest names of linears for a target that matches nothing. Pure text."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CANONICAL_OF_HF = {
    "q_proj": ("linear_q",),
    "k_proj": ("linear_k",),
    "v_proj": ("linear_v",),
    "o_proj": ("linear_proj",),
    "gate_proj": ("linear_fc1_gate",),
    "up_proj": ("linear_fc1_up",),
    "down_proj": ("linear_fc2",),
    "gate_up_proj": ("linear_fc1_gate", "linear_fc1_up"),
    "qkv_proj": ("linear_q", "linear_k", "linear_v"),
    "query_key_value": ("linear_q", "linear_k", "linear_v"),
    "dense_h_to_4h": ("linear_fc1_up",),
    "dense_4h_to_h": ("linear_fc2",),
    "q_a_proj": ("linear_q_down_proj",),
    "q_b_proj": ("linear_q_up_proj",),
    "kv_a_proj_with_mqa": ("linear_kv_down_proj",),
    "kv_b_proj": ("linear_kv_up_proj",),
    "lm_head": ("output_layer",),
    "embed_tokens": ("word_embeddings",),
    "gate": ("router",),
}
"""Last name of a Hugging Face module -> megatron-core's names for the same weights."""

MLA_TARGETS = ("linear_q_proj", "linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj")
"""The projections of multi-latent attention, which has no `linear_qkv`. Each model has some of
them.
"""


def nearest(target: str, names: Iterable[str]) -> list[str]:
    """Return those of `names` that a user may have meant by `target`, the best first.

    A Hugging Face name gives megatron-core's name for the same weights. On a model with
    multi-latent attention, q, k and v give its projections. Any other target gives the three most
    similar names.

    Args:
        target: a target that matches nothing.
        names: last names of the linears in the model.
    """
    available = set(names)
    last = target.rsplit(".", 1)[-1]
    known = [name for name in CANONICAL_OF_HF.get(last, ()) if name in available]
    if known:
        return known
    if last in ("linear_q", "linear_k", "linear_v", "q_proj", "k_proj", "v_proj") and "linear_q" not in available:
        projections = [name for name in MLA_TARGETS if name in available]
        if projections:
            return projections
    return difflib.get_close_matches(last.strip("*"), sorted(available), n=3, cutoff=0.6)


def hf_hint(target: str) -> str:
    """Return megatron-core's names for a Hugging Face name in a sentence; "" for other targets."""
    names = CANONICAL_OF_HF.get(target.rsplit(".", 1)[-1], ())
    return f"a Hugging Face name; megatron-core calls it {' and '.join(names)}" if names else ""
