"""Map each adapter to the linears of the Hugging Face model that it changes. Pure.

The names are those of the released checkpoints, which transformers 4, vLLM and SGLang read; each
family in `clora.families` has its own. One placement may be several Hugging Face linears:
megatron-core has one grouped linear for all experts and Hugging Face one for each, and a fused
`linear_fc1` is a gate and an up projection. A placement without a linear of its own gets a reason
instead.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

from clora.families import families
from clora.families.base.linear_names import FUSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

    from clora.families.base.linear_names import LinearNames, Projections
    from clora.layer_pattern import LayerPattern
    from clora.plan import ExpertFacts


class Rows(StrEnum):
    """The rows of B that belong to a Hugging Face linear, and their order."""

    ALL = "all"
    GATE = "gate"
    """The first half of a fused gate and up."""
    UP = "up"
    """The second half of a fused gate and up."""
    QUERY_AND_GATE = "query and gate"
    """Query heads and their output gates. megatron-core puts all queries of a key-value group
    before its gates; Hugging Face puts each head's gate behind its query.
    """


Heads = tuple[int, int, int]
"""(key-value groups, query heads of a group, channels of a head) of an attention."""


class HFLinear(msgspec.Struct, frozen=True, kw_only=True):
    """One linear of the Hugging Face model, and its share of a placement's A and B."""

    module: str
    """Path in the Hugging Face model, such as `model.layers.3.self_attn.q_proj`."""
    rows: Rows = Rows.ALL
    expert: int | None = None
    """Number of the routed expert in its layer; None outside routed experts."""


class Named(Protocol):
    """The fields of a `Placement` that decide its Hugging Face linears. A linear without an adapter
    has them too.
    """

    @property
    def module(self) -> str: ...
    @property
    def global_layer(self) -> int | None: ...
    @property
    def part(self) -> str | None: ...
    @property
    def experts(self) -> ExpertFacts | None: ...


class NoHFLinear(msgspec.Struct, frozen=True, kw_only=True):
    """A placement that no linear of the Hugging Face model can hold."""

    reason: str
    left_out: bool = False
    """True if an export may go on without the placement and report it; False if it is refused."""


_STANDING_ALONE = "model."
"""Prefix of the layers of a text model that stands alone."""
_TEXT_MODEL = {
    "idefics2": "model.text_model.",
    "idefics3": "model.text_model.",
    "smolvlm": "model.text_model.",
    **dict.fromkeys(("qwen2_5_omni", "qwen3_omni_moe"), "thinker.model."),
    **dict.fromkeys(
        ("granite_speech", "internvl_chat", "kimi_k25", "kimi_vl", "llama4", "qwen2_audio", "voxtral"),
        "language_model.model.",
    ),
}
"""`model_type` of a model of several modalities -> prefix of its text model."""
TEXT_MODEL = "model.language_model."
"""The prefix in any other such model of transformers 4.52 and later."""

_IN_LAYER = re.compile(r"decoder\.layers\.\d+\.(.+)")
_SEQUENTIAL_EXPERT = re.compile(r"mlp\.experts\.local_experts\.(\d+)\.(linear_fc[12])")
_GROUPED_EXPERTS = re.compile(r"mlp\.experts\.(linear_fc[12])")
_MLP = re.compile(r"mlp\.(shared_experts\.)?(linear_fc[12])")


def hf_linears(
    placement: Named,
    model_type: str,
    *,
    ep_rank: int | None = None,
    inside: str | None = None,
    pattern: LayerPattern | None = None,
) -> tuple[HFLinear, ...] | NoHFLinear:
    """Return the linears of the Hugging Face model that the adapter of `placement` changes.

    Args:
        placement: one adapter. An adapter of grouped experts covers the experts of all
            expert-parallel ranks.
        model_type: of the Hugging Face config.
        ep_rank: the expert-parallel rank that holds a sequential expert. None means every rank;
            each has another expert at the same path.
        inside: `model_type` of the model of several modalities whose text model this is; None for
            a model that stands alone.
        pattern: the letters of the layers of a HybridModel, where attention and MLP are layers of
            their own; None for a GPTModel, whose layers are those of Hugging Face.
    """
    family = families().get(model_type)
    if family is None:
        known = ", ".join(families())
        return NoHFLinear(reason=f"no names are known for model_type {model_type!r}; known: {known}")
    # All families have the same name for it, in the text model or in the whole one.
    if placement.module == "output_layer":
        return (HFLinear(module=f"{_head_inside(inside)}lm_head"),)
    in_layer = _IN_LAYER.fullmatch(placement.module)
    if in_layer is None or placement.global_layer is None:
        return NoHFLinear(reason=_reason_outside(placement.module))
    prefix = _layer_prefix(placement.global_layer, model_type, inside, pattern)
    linears = _in_layer(placement, in_layer[1], family.names, ep_rank) if isinstance(prefix, str) else prefix
    if isinstance(linears, NoHFLinear):
        return linears
    return tuple(msgspec.structs.replace(linear, module=f"{prefix}{linear.module}") for linear in linears)


def to_hf_rows(b: torch.Tensor, rows: Rows, heads: Heads) -> torch.Tensor:
    """Return the rows of a B `[out, rank]` that a Hugging Face linear takes, in its order."""
    if rows is Rows.GATE:
        return b.chunk(2)[0]
    if rows is Rows.UP:
        return b.chunk(2)[1]
    if rows is Rows.QUERY_AND_GATE:
        # [group, query or gate, head, channel] -> [group, head, query or gate, channel]
        groups, per_group, channels = heads
        by_group = b.view(groups, 2, per_group, channels, -1)
        return by_group.transpose(1, 2).reshape(b.shape)
    return b


def from_hf_rows(b: torch.Tensor, rows: Rows, heads: Heads) -> torch.Tensor:
    """Return B in the order of megatron-core's rows: undo `to_hf_rows` for one linear."""
    groups, per_group, channels = heads
    # A B of any other size is left as it is: the caller compares shapes and says what is wrong.
    if rows is Rows.QUERY_AND_GATE and b.shape[0] == groups * per_group * 2 * channels:
        by_group = b.view(groups, per_group, 2, channels, -1)
        return by_group.transpose(1, 2).reshape(b.shape)
    return b


def _layer_prefix(number: int, model_type: str, inside: str | None, pattern: LayerPattern | None) -> str | NoHFLinear:
    """Return the path of layer `number` in the Hugging Face model, with a dot behind it."""
    names = families()[model_type].names
    layers = _layers_inside(inside, names.layers) if inside is not None else names.layers
    if layers is None:
        return NoHFLinear(reason=f"the place of a {model_type} model in a {inside} model is not known")
    if pattern is None or names.has_single_blocks:
        return f"{layers}.{number}."
    if pattern.is_of_pairs:
        return f"{layers}.{number // 2}."
    return NoHFLinear(
        reason=f"a layer of {model_type} is attention and then an MLP, and the layers of this model "
        f"({pattern.letters}) do not alternate so"
    )


def hf_layer_count(layers: int | None, model_type: str, pattern: LayerPattern | None) -> int | None:
    """Return how many layers the Hugging Face model has of which megatron-core's has `layers`."""
    family = families().get(model_type)
    single = family is not None and family.names.has_single_blocks
    return layers if pattern is None or single or not pattern.is_of_pairs else pattern.pairs


def _head_inside(model_type: str | None) -> str:
    """Return the path of the module that has the output layer, with a dot behind it."""
    prefix = "" if model_type is None else _TEXT_MODEL.get(model_type, TEXT_MODEL)
    # Where the text model is a whole causal model, it has an output layer of its own.
    return prefix.removesuffix("model.") if prefix.endswith(".model.") else ""


def _layers_inside(model_type: str, layers: str) -> str | None:
    """Return the path of the list `layers` in a model of several modalities; None if not known."""
    if not layers.startswith(_STANDING_ALONE):
        return None
    return _TEXT_MODEL.get(model_type, TEXT_MODEL) + layers.removeprefix(_STANDING_ALONE)


def _in_layer(
    placement: Named, path: str, names: LinearNames, ep_rank: int | None
) -> tuple[HFLinear, ...] | NoHFLinear:
    """Return the linears of the module at `path` in its layer, with paths in that layer."""
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
        parent = names.shared_experts if found[1] else names.mlp
        if parent is None:
            return _unknown(path)
        return tuple(_projections(parent, found[2], placement.part, names.projections)) or NoHFLinear(
            reason=f"gate and up are one linear there, {names.projections[1]}, and PEFT has one adapter a linear"
        )
    return _attention(placement, path, names)


def _attention(placement: Named, path: str, names: LinearNames) -> tuple[HFLinear, ...] | NoHFLinear:
    parent, _, name = path.rpartition(".")
    # megatron-core's Mamba layers have a `mixer`; the mixer of a gated delta net is a
    # `self_attention`.
    if parent == "mixer":
        return _mamba(path, name, names)
    if parent != "self_attention":
        return NoHFLinear(reason=names.reasons[name]) if name in names.reasons else _unknown(path)
    own = f"{name}[{placement.part}]" if placement.part else name
    if own not in names.attention:
        return NoHFLinear(reason=names.reasons[name]) if name in names.reasons else _unknown(own)
    rows = Rows.QUERY_AND_GATE if placement.part == "q" and names.has_output_gate else Rows.ALL
    return (HFLinear(module=names.attention[own], rows=rows),)


def _mamba(path: str, name: str, names: LinearNames) -> tuple[HFLinear, ...] | NoHFLinear:
    if name == "out_proj":
        return NoHFLinear(reason="PEFT refuses adapters on Mamba's out_proj, whose weight the fused kernels read")
    # The rows of B, joined section by section, have Hugging Face's order.
    return (HFLinear(module=names.mamba[name]),) if name in names.mamba else _unknown(path)


def _experts(
    placement: Named, linear: str, names: LinearNames, numbers: Iterable[int]
) -> tuple[HFLinear, ...] | NoHFLinear:
    # Asked first, because such a family has no list of experts with a path either.
    if names.has_packed_experts:
        return NoHFLinear(reason="the experts are one three-dimensional parameter there, and no linears")
    if names.experts is None:
        return NoHFLinear(reason="that family has no experts")
    projections = names.expert_projections or names.projections
    return tuple(
        msgspec.structs.replace(hf_linear, expert=number)
        for number in numbers
        for hf_linear in _projections(f"{names.experts}.{number}", linear, placement.part, projections)
    )


def _projections(parent: str, linear: str, part: str | None, projections: Projections) -> Iterator[HFLinear]:
    """Yield the linears below `parent` that hold `part` of an MLP's `linear_fc1` or `linear_fc2`.

    `part` is None for the whole linear. An MLP without a gate has no gate part to yield.
    """
    gate, up, down = projections
    if linear == "linear_fc2":
        yield HFLinear(module=f"{parent}.{down}")
    elif part is None and gate is not None:
        yield HFLinear(module=f"{parent}.{gate}", rows=Rows.GATE)
        yield HFLinear(module=f"{parent}.{up}", rows=Rows.UP)
    elif part == "gate" and gate is not None:
        yield HFLinear(module=f"{parent}.{gate}")
    elif part is None or (part == "up" and projections not in FUSED):
        yield HFLinear(module=f"{parent}.{up}")


def _numbers(placement: Named, local: int, ep_rank: int | None) -> Iterable[int]:
    """Return the numbers in the layer of the experts that are the `local`-th of their ranks."""
    facts = placement.experts
    if facts is None:
        return (local,)
    ranks = range(facts.ep) if ep_rank is None else (ep_rank,)
    return [rank * facts.num_local_experts + local for rank in ranks]


def _unknown(path: str) -> NoHFLinear:
    return NoHFLinear(reason=f"that family has no counterpart of {path}")


def _reason_outside(module: str) -> str:
    if module.startswith("mtp."):
        return "Hugging Face does not load multi-token-prediction layers"
    return "no name is known for a module outside the decoder's layers"
