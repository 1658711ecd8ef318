"""Where Hugging Face keeps what an adapter changes: a placement -> the linears of the Hugging Face
model. Pure.

The names are those of the released checkpoints (transformers 4, vLLM and SGLang read them too), by
`model_type`. One placement may be several linears there: grouped experts are one linear here and
one per expert there, and their fused `linear_fc1` is a gate and an up projection. What has no
linear of its own there has a reason instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clora.plan import Placement


class Rows(StrEnum):
    """Which rows of B a Hugging Face linear takes, and in which order."""

    ALL = "all"
    GATE = "gate"
    """The first half of a fused gate and up."""
    UP = "up"
    """The second half of a fused gate and up."""
    QUERY_AND_GATE = "query and gate"
    """Query heads and their output gates: all queries of a key-value group before its gates here,
    head by head there.
    """


class HFLinear(msgspec.Struct, frozen=True, kw_only=True):
    """One linear of the Hugging Face model, and what it takes of a placement's A and B."""

    module: str
    """Its path, such as `model.layers.3.self_attn.q_proj`."""
    rows: Rows = Rows.ALL
    expert: int | None = None
    """Number of the routed expert in its layer; None outside routed experts."""


class NoHFLinear(msgspec.Struct, frozen=True, kw_only=True):
    """A placement that no linear of the Hugging Face model can hold."""

    reason: str
    left_out: bool = False
    """True: an export goes on without it and says so. False: an export is refused."""


@dataclass(frozen=True, slots=True)
class _Names:
    """How one family calls its linears, below a layer."""

    attention: Mapping[str, str]
    """Last name here, with the canonical part where it is fused -> path there."""
    layers: str = "model.layers"
    mlp: str = "mlp"
    projections: tuple[str | None, str, str] = ("gate_proj", "up_proj", "down_proj")
    """Gate, up and down of an MLP; the gate is None where there is none."""
    experts: str | None = None
    expert_projections: tuple[str | None, str, str] | None = None
    """Those of a routed expert, where they are called otherwise than the MLP's."""
    shared_experts: str | None = None
    output_gate: bool = False
    """The query projection holds an output gate for every head."""
    packed_experts: bool = False
    """The experts of a layer are one three-dimensional parameter, not linears."""


_ATTENTION = {
    "linear_qkv[q]": "self_attn.q_proj",
    "linear_qkv[k]": "self_attn.k_proj",
    "linear_qkv[v]": "self_attn.v_proj",
    "linear_proj": "self_attn.o_proj",
}
_LATENT_ATTENTION = {
    "linear_q_proj": "self_attn.q_proj",
    "linear_q_down_proj": "self_attn.q_a_proj",
    "linear_q_up_proj": "self_attn.q_b_proj",
    "linear_kv_down_proj": "self_attn.kv_a_proj_with_mqa",
    "linear_kv_up_proj": "self_attn.kv_b_proj",
    "linear_proj": "self_attn.o_proj",
}
_DENSE = _Names(_ATTENTION)
_NO_GATE = (None, "up_proj", "down_proj")
_DEEPSEEK = _Names(_LATENT_ATTENTION, experts="mlp.experts", shared_experts="mlp.shared_experts")

_FAMILIES: dict[str, _Names] = {
    "llama": _DENSE,
    "mistral": _DENSE,
    "qwen2": _DENSE,
    "qwen3": _DENSE,
    "gemma2": _DENSE,
    "nemotron": replace(_DENSE, projections=_NO_GATE),
    "mixtral": replace(_DENSE, experts="block_sparse_moe.experts", expert_projections=("w1", "w3", "w2")),
    "qwen3_moe": replace(_DENSE, experts="mlp.experts"),
    "qwen3_next": replace(
        _DENSE,
        attention={**_ATTENTION, "out_proj": "linear_attn.out_proj"},
        experts="mlp.experts",
        shared_experts="mlp.shared_expert",
        output_gate=True,
    ),
    "gpt_oss": replace(_DENSE, packed_experts=True),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "nemotron_h": _Names(
        attention={ours: theirs.replace("self_attn", "mixer") for ours, theirs in _ATTENTION.items()},
        layers="backbone.layers",
        mlp="mixer",
        projections=_NO_GATE,
        experts="mixer.experts",
        shared_experts="mixer.shared_experts",
    ),
}

MODEL_TYPES = tuple(sorted(_FAMILIES))
"""The values of `model_type` in a Hugging Face config.json that have names here."""

_IN_LAYER = re.compile(r"decoder\.layers\.\d+\.(.+)")
_SEQUENTIAL_EXPERT = re.compile(r"mlp\.experts\.local_experts\.(\d+)\.(linear_fc[12])")
_GROUPED_EXPERTS = re.compile(r"mlp\.experts\.(linear_fc[12])")
_MLP = re.compile(r"mlp\.(shared_experts\.)?(linear_fc[12])")


def hf_linears(
    placement: Placement, model_type: str, *, ep_rank: int | None = None
) -> tuple[HFLinear, ...] | NoHFLinear:
    """The linears of the Hugging Face model in which the delta of `placement` lands.

    Args:
        placement: one adapter. One of grouped experts stands for the experts of all expert-parallel
            ranks.
        model_type: of the Hugging Face config.
        ep_rank: the expert-parallel rank that holds a sequential expert; None means all of them,
            each of which has one there.
    """
    names = _FAMILIES.get(model_type)
    if names is None:
        return NoHFLinear(reason=f"no names are known for model_type {model_type!r}; known: {', '.join(MODEL_TYPES)}")
    if placement.module == "output_layer":
        return (HFLinear(module="lm_head"),)
    inside = _IN_LAYER.fullmatch(placement.module)
    if inside is None or placement.global_layer is None:
        return NoHFLinear(reason=_reason_outside(placement.module))
    linears = _in_layer(placement, inside[1], names, ep_rank)
    if isinstance(linears, NoHFLinear):
        return linears
    prefix = f"{names.layers}.{placement.global_layer}."
    return tuple(msgspec.structs.replace(linear, module=prefix + linear.module) for linear in linears)


def _in_layer(placement: Placement, path: str, names: _Names, ep_rank: int | None) -> tuple[HFLinear, ...] | NoHFLinear:
    """`hf_linears` of a module at `path` below a layer, with paths below that layer."""
    if path == "mlp.router":
        return NoHFLinear(
            reason="the router is no linear in most Hugging Face models, so PEFT cannot be relied on to adapt it",
            left_out=True,
        )
    if found := _SEQUENTIAL_EXPERT.fullmatch(path):
        return _experts(placement, found[2], names, _numbers(placement, int(found[1]), ep_rank))
    if found := _GROUPED_EXPERTS.fullmatch(path):
        facts = placement.experts
        return _experts(placement, found[1], names, range(facts.num_experts if facts else 0))
    if found := _MLP.fullmatch(path):
        at = names.shared_experts if found[1] else names.mlp
        if at is None:
            return _unknown(path)
        return tuple(_projections(at, found[2], placement.part, names.projections, None)) or _unknown(path)
    return _attention(placement, path, names)


def _attention(placement: Placement, path: str, names: _Names) -> tuple[HFLinear, ...] | NoHFLinear:
    parent, _, name = path.rpartition(".")
    if parent == "mixer":
        return NoHFLinear(
            reason="PEFT refuses adapters on Mamba's projections, whose weights the fused kernels read past it"
        )
    if parent != "self_attention":
        return _unknown(path)
    if name == "in_proj":
        return NoHFLinear(
            reason="Hugging Face cuts the gated delta net's in_proj in two linears whose rows are packed by key head"
        )
    own = f"{name}[{placement.part}]" if placement.part else name
    if own not in names.attention:
        return _unknown(own)
    rows = Rows.QUERY_AND_GATE if placement.part == "q" and names.output_gate else Rows.ALL
    return (HFLinear(module=names.attention[own], rows=rows),)


def _experts(
    placement: Placement, linear: str, names: _Names, numbers: tuple[int, ...] | range
) -> tuple[HFLinear, ...] | NoHFLinear:
    if names.packed_experts:
        return NoHFLinear(reason="the experts are one three-dimensional parameter there, and no linears")
    if names.experts is None:
        return NoHFLinear(reason="that family has no experts")
    projections = names.expert_projections or names.projections
    return tuple(
        hf_linear
        for number in numbers
        for hf_linear in _projections(f"{names.experts}.{number}", linear, placement.part, projections, number)
    )


def _projections(
    at: str, linear: str, part: str | None, projections: tuple[str | None, str, str], expert: int | None
) -> Iterator[HFLinear]:
    """The linears of one MLP at `at` that hold (the canonical part `part` of) its `linear_fc1` or
    `linear_fc2`.
    """
    gate, up, down = projections
    if linear == "linear_fc2":
        yield HFLinear(module=f"{at}.{down}", expert=expert)
    elif part is None and gate is not None:
        yield HFLinear(module=f"{at}.{gate}", rows=Rows.GATE, expert=expert)
        yield HFLinear(module=f"{at}.{up}", rows=Rows.UP, expert=expert)
    elif part == "gate" and gate is not None:
        yield HFLinear(module=f"{at}.{gate}", expert=expert)
    elif part in ("up", None):
        yield HFLinear(module=f"{at}.{up}", expert=expert)


def _numbers(placement: Placement, local: int, ep_rank: int | None) -> tuple[int, ...]:
    """Numbers in the layer of the sequential expert that is the `local`-th of its rank."""
    facts = placement.experts
    if facts is None:
        return (local,)
    ranks = range(facts.ep) if ep_rank is None else (ep_rank,)
    return tuple(rank * facts.num_local_experts + local for rank in ranks)


def _unknown(path: str) -> NoHFLinear:
    return NoHFLinear(reason=f"that family has no counterpart of {path}")


def _reason_outside(module: str) -> str:
    if module.startswith("mtp."):
        return "Hugging Face does not load multi-token-prediction layers"
    return "no name is known for a module outside the decoder's layers"
