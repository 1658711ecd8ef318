"""`LinearNames`: how the Hugging Face models of a family name the linears of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ATTENTION = {
    "linear_qkv[q]": "self_attn.q_proj",
    "linear_qkv[k]": "self_attn.k_proj",
    "linear_qkv[v]": "self_attn.v_proj",
    "linear_proj": "self_attn.o_proj",
}
"""Linears of an attention block, as nearly all families name them."""

Projections = tuple[str | None, str, str]
"""Names of an MLP's gate, up and down projection. The gate is None in an MLP without one."""

GATED: Projections = ("gate_proj", "up_proj", "down_proj")
UNGATED: Projections = (None, "up_proj", "down_proj")
FUSED_GATE_AND_UP: Projections = (None, "gate_up_proj", "down_proj")
FUSED_INPUT: Projections = (None, "input_linear", "output_linear")
FUSED = (FUSED_GATE_AND_UP, FUSED_INPUT)
"""Gate and up in one linear, gate first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearNames:
    """Names of one family's linears; each path starts below the layer. The defaults are Llama's."""

    layers: str = "model.layers"
    """Path of the list of layers in the model."""
    layers_in_transformers_5: str | None = None
    """The path in transformers 5, when its class has another one than released checkpoints."""
    has_single_blocks: bool = False
    """True if a layer is one block, attention or MLP, as in a HybridModel of megatron-core."""
    attention: Mapping[str, str] = field(default_factory=lambda: ATTENTION)
    """Last name in megatron-core, with `[part]` for a canonical part of a fused linear -> path."""
    mamba: Mapping[str, str] = field(default_factory=dict)
    """Last name in a Mamba layer of megatron-core -> path; empty when the family has none."""
    mlp: str = "mlp"
    projections: Projections = GATED
    experts: str | None = None
    """Path of the list of routed experts; None when the family has none, or has no linear for
    each.
    """
    expert_projections: Projections | None = None
    """Names inside a routed expert, when they differ from those of an MLP."""
    shared_experts: str | None = None
    has_output_gate: bool = False
    """True if the query projection also holds an output gate for every head."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Last name in megatron-core -> why no linear of the family can take its adapter."""
    has_packed_experts: bool = False
    """True if a layer's experts are one three-dimensional parameter, which no linear can name."""
