"""Call each adapted linear by one name, whichever program named it. Pure.

The names are those of Hugging Face's Llama, Qwen 3 MoE and DeepSeek, from `model.layers` on:
`model.layers.3.self_attn.q_proj`, `model.layers.3.mlp.experts.5.up_proj`. Linears of other families
are called as their counterparts there, whatever stands around the text model, so a checkpoint of
megatron-core and a Hugging Face folder meet without a config of the model. Shared experts are
called as the MLP of their layer, which has no other.

What Hugging Face has no linear for, such as a router, has its name in megatron-core.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from clora.families.base.linear_names import ATTENTION, GATED
from clora.folders.fingerprint import ALL_EXPERTS
from clora.hf_names import Rows
from clora.layer_pattern import LayerPattern, gpt_path, without_release

_GATE, _UP, _DOWN = (str(name) for name in GATED)

_ATTENTION = {
    **ATTENTION,
    "linear_q_proj": "self_attn.q_proj",
    "linear_q_down_proj": "self_attn.q_a_proj",
    "linear_q_up_proj": "self_attn.q_b_proj",
    "linear_kv_down_proj": "self_attn.kv_a_proj_with_mqa",
    "linear_kv_up_proj": "self_attn.kv_b_proj",
    "out_proj": "linear_attn.out_proj",
}
"""Last name in megatron-core's attention, with `[part]` for a canonical part -> path."""

_PROJECTIONS = {
    **dict.fromkeys((_GATE, "w1"), _GATE),
    **dict.fromkeys((_UP, "w3", "c_fc"), _UP),
    **dict.fromkeys((_DOWN, "w2", "c_proj", "output_linear"), _DOWN),
}
"""Name of an MLP's projection in any family -> name."""
_GATE_AND_UP = ("gate_up_proj", "input_linear")
"""Projections whose rows are gate, then up."""

_STACK = re.compile(r"(?P<tower>.*?)decoder\.layers\.(?P<layer>\d+)\.(?P<path>.+)")
_LANGUAGE_TOWERS = ("", "language_model.")
# Grouped experts are `experts.experts` in the keys of checkpoints.
_MLP = re.compile(r"mlp\.(?:(?P<experts>experts)\.(?:experts\.)?|shared_experts\.)?(?P<linear>linear_fc[12])")
_HF_LAYER = re.compile(r"(?P<before>|.*?\.)(?:layers|h)\.(?P<layer>\d+)\.(?P<path>.+)")
_HF_EXPERT = re.compile(r"(?:mlp|mixer|block_sparse_moe|feed_forward)\.experts\.(?P<number>\d+)\.(?P<linear>\w+)")
_HF_MLP = re.compile(
    r"(?:mlp|mixer|feed_forward|shared_mlp|(?:mlp|mixer|feed_forward)\.shared_(?:experts?|mlp))\.(?P<linear>\w+)"
)
_HF_ATTENTION = re.compile(r"(?:self_attn|mixer|attn|attention)\.(?P<linear>\w+)")
_OTHER_MODALITY = re.compile(r"vis(?:ion|ual)|audio|speech|image", re.IGNORECASE)


class NamedRows(NamedTuple):
    """A linear by its name, and the rows of B that it takes."""

    name: str
    rows: Rows


def names_in_megatron(
    module: str,
    part: str | None,
    *,
    expert: int | None = None,
    gated: bool,
    output_gate: bool,
    pattern: LayerPattern | None = None,
) -> tuple[NamedRows, ...]:
    """Return the linears that one adapter of a megatron-core model changes.

    Args:
        module: path of the adapted module, with the number of the layer in the whole model and
            without that of a sequential expert.
        part: canonical part of a fused linear, or None.
        expert: number of the routed expert in its layer; None for a pair that all experts share,
            and outside experts.
        gated: whether the rows of a whole `linear_fc1` are gate and up.
        output_gate: whether the query projection holds a gate for each head.
        pattern: the letters of the layers of a HybridModel.
    """
    if pattern is not None and pattern.is_of_pairs:
        module = gpt_path(module) or module
    found = _STACK.fullmatch(module)
    if module.rpartition(".")[2] == "output_layer" and "decoder" not in module:
        return (NamedRows("lm_head", Rows.ALL),)
    if found is None or found["tower"] not in _LANGUAGE_TOWERS:
        return (NamedRows(_own_name(without_release(module), part, expert), Rows.ALL),)
    layer, path = f"model.layers.{found['layer']}", found["path"]
    if mlp := _MLP.fullmatch(path):
        number = ALL_EXPERTS if expert is None else expert
        parent = f"{layer}.mlp.experts.{number}" if mlp["experts"] else f"{layer}.mlp"
        return tuple(
            NamedRows(f"{parent}.{name}", rows) for name, rows in _projections(mlp["linear"], part, gated=gated)
        )
    above, _, last = path.rpartition(".")
    own = f"{last}[{part}]" if part else last
    if above == "self_attention" and own in _ATTENTION:
        rows = Rows.QUERY_AND_GATE if part == "q" and output_gate else Rows.ALL
        return (NamedRows(f"{layer}.{_ATTENTION[own]}", rows),)
    return (NamedRows(_own_name(f"{layer}.{path}", part, expert), Rows.ALL),)


def names_in_hf(module: str) -> tuple[NamedRows, ...]:
    """Return the name of the linear at `module` of a Hugging Face model; two for a linear that is
    gate and up.
    """
    found = _HF_LAYER.fullmatch(module)
    if found is None or _OTHER_MODALITY.search(found["before"]):
        is_head = module.rpartition(".")[2] == "lm_head"
        return (NamedRows("lm_head" if is_head else module, Rows.ALL),)
    layer, path = f"model.layers.{found['layer']}", found["path"]
    expert, mlp = _HF_EXPERT.fullmatch(path), _HF_MLP.fullmatch(path)
    linear = (expert or mlp or {"linear": ""})["linear"]
    parent = f"{layer}.mlp.experts.{expert['number']}" if expert else f"{layer}.mlp"
    if linear in _GATE_AND_UP:
        return NamedRows(f"{parent}.{_GATE}", Rows.GATE), NamedRows(f"{parent}.{_UP}", Rows.UP)
    if linear in _PROJECTIONS:
        return (NamedRows(f"{parent}.{_PROJECTIONS[linear]}", Rows.ALL),)
    attention = _HF_ATTENTION.fullmatch(path)
    if attention and path != "mixer.in_proj":
        last = "o_proj" if path in ("attn.c_proj", "attention.dense") else attention["linear"]
        return (NamedRows(f"{layer}.self_attn.{last}", Rows.ALL),)
    return (NamedRows(f"{layer}.{path}", Rows.ALL),)


def _projections(linear: str, part: str | None, *, gated: bool) -> tuple[NamedRows, ...]:
    if linear == "linear_fc2":
        return (NamedRows(_DOWN, Rows.ALL),)
    if part is None and gated:
        return NamedRows(_GATE, Rows.GATE), NamedRows(_UP, Rows.UP)
    return (NamedRows(_GATE if part == "gate" else _UP, Rows.ALL),)


def _own_name(module: str, part: str | None, expert: int | None) -> str:
    return module + (f"[{part}]" if part else "") + ("" if expert is None else f"[expert {expert}]")
