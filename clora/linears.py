"""What a foreign module is: the only file that names megatron-core and Transformer Engine classes.
Read-only, always.

A module is known by the qualified names in its class's method resolution order, so nothing is
imported to find out, and a subclass (a post-norm linear, a quantised linear) is what its base is.
Looking changes nothing: no attribute is set and no shared config is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from clora.errors import GeometryError
from clora.fused import FUSED, FusedLayout, fc1_layout, qkv_layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn
    from torch.distributed import ProcessGroup

_LAYERS = "megatron.core.tensor_parallel.layers."
_TE = "megatron.core.extensions.transformer_engine."


class ParallelKind(StrEnum):
    """How a linear's weight `[out, in]` lies over its tensor-parallel axis."""

    COLUMN = "column"
    """Split along out; the input is whole."""
    ROW = "row"
    """Split along in; the output is whole."""
    DUPLICATED = "duplicated"
    """Every rank holds it whole, inside a tensor-parallel model."""
    ROUTER = "router"
    """The gating of a mixture of experts: duplicated, and its forward returns more than its
    product.
    """
    PLAIN = "plain"
    """A torch linear outside tensor parallelism."""


_KIND_BY_CLASS = {
    _LAYERS + "ColumnParallelLinear": ParallelKind.COLUMN,
    _LAYERS + "RowParallelLinear": ParallelKind.ROW,
    _TE + "TELayerNormColumnParallelLinear": ParallelKind.COLUMN,
    _TE + "TEColumnParallelLinear": ParallelKind.COLUMN,
    _TE + "TERowParallelLinear": ParallelKind.ROW,
    _TE + "TEColumnParallelGroupedLinear": ParallelKind.COLUMN,
    _TE + "TERowParallelGroupedLinear": ParallelKind.ROW,
    _TE + "TELinear": ParallelKind.DUPLICATED,
    "megatron.core.transformer.moe.router.TopKRouter": ParallelKind.ROUTER,
    "torch.nn.modules.linear.Linear": ParallelKind.PLAIN,
}
"""Qualified class name -> kind, the most derived class first (`TEColumnParallelLinear` is also a
`TELinear`).
"""

_GROUPED = _TE + "TEGroupedLinear"
_NORM_INSIDE = _TE + "TELayerNormColumnParallelLinear"
_NORM_OF_OUTPUT = "post_layernorm"
"""The child by which a linear has a norm behind it; Megatron-Bridge's name."""
_BYPASSES_ITS_LINEARS = _TE + "TEFusedMLP"
_DATA_PARALLEL = frozenset(
    (
        "megatron.core.distributed.data_parallel_base._BaseDataParallel",
        "torch.nn.parallel.distributed.DistributedDataParallel",
    )
)
_BLOCKS = frozenset(
    {
        "megatron.core.transformer.transformer_block.TransformerBlock",
        "megatron.core.ssm.mamba_block.MambaStack",
    }
)
"""Stacks of layers: what activation recomputation cuts in pieces."""
_SPLIT_OVER_HEADS = frozenset({"softmax_offset"})
"""Parameters that are tensor-parallel and carry no mark of it."""

_EMBEDDING = _LAYERS + "VocabParallelEmbedding"
"""Its weight is marked as tensor-parallel only when it is initialised, which on the meta device it
is not.
"""


@dataclass(frozen=True, slots=True)
class LinearFacts:
    """What a LoRA adapter needs to know of the linear that it stands beside. Features count all
    ranks together.
    """

    kind: ParallelKind
    in_features: int
    out_features: int
    axis: str | None
    """Mesh axis of the tensor parallelism: "tp", "etp" for routed experts, None for a plain linear."""
    axis_size: int
    is_expert: bool = False
    num_local_experts: int = 0
    """Experts in one grouped linear; 0 for a linear of its own."""
    num_experts: int = 0
    ep: int = 1
    topk: int = 0
    """`moe_router_topk` of the routed experts that it belongs to; 0 elsewhere."""
    parts: tuple[str, ...] = ()
    """Canonical parts that its rows hold; empty for a linear that is not fused by name."""
    fused: FusedLayout | None = None
    """How those parts are packed; None when they get one adapter together (or there is one part
    only).
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """How a live linear communicates and where its weights live: what the adapter beside it has to
    do as well.
    """

    kind: ParallelKind
    group: ProcessGroup | None
    """The tensor-parallel group of its axis; None when that has one rank."""
    size: int
    rank: int
    sequence_parallel: bool
    """Its input (column, duplicated) or output (row) is this rank's part of the sequence."""
    reduces_outside: bool
    """Somebody else gathers its input and sums its output over the axis: the token dispatcher, the
    overlapped shared expert.
    """
    splits_input: bool
    """A row-parallel linear that is given its whole input and takes its share itself."""
    norm_inside: bool
    """The linear's own input is the output of a norm in the same module."""
    norm_of_output: bool
    """The module's output is that of a norm behind its product (Gemma 2): what is added to the
    product goes through it.
    """
    is_expert: bool
    ep_group: ProcessGroup | None
    """The expert-parallel group of a routed expert; None when that has one rank."""
    ep_rank: int
    ep_size: int
    etp_is_tp: bool
    """The expert ranks with one etp rank are the data-parallel peers of one tp rank."""
    marks_sequence_parallel: bool
    """Its own weight is marked `sequence_parallel`: replicated, with a gradient from a part of the
    sequence.
    """
    dtype: torch.dtype
    device: torch.device


def describe(module: nn.Module, path: str) -> LinearFacts | None:
    """The facts of the linear `module` at `path`, or None when it is no linear that LoRA knows.

    Raises:
        GeometryError: a fused linear whose rows are not the sum of its canonical parts.
    """
    kind = _kind_of(module)
    if kind is None:
        return None
    foreign: Any = module
    config: Any = getattr(module, "config", None)
    segments = path.split(".")
    is_expert = "experts" in segments and kind is not ParallelKind.ROUTER
    size = 1 if kind is ParallelKind.PLAIN else _axis_size(foreign)
    in_features, out_features = _features(foreign, kind, size)
    expert_facts: dict[str, int] = {}
    if is_expert:
        expert_facts = {
            "num_local_experts": foreign.num_gemms if is_grouped(module) else 0,
            "num_experts": config.num_moe_experts,
            "ep": config.expert_model_parallel_size,
            "topk": config.moe_router_topk,
        }
    return LinearFacts(
        kind=kind,
        in_features=in_features,
        out_features=out_features,
        axis=None if kind is ParallelKind.PLAIN else "etp" if is_expert else "tp",
        axis_size=size,
        is_expert=is_expert,
        parts=_parts(segments[-1], config),
        fused=_fused_layout(segments, config, out_features, size) if kind is ParallelKind.COLUMN else None,
        **expert_facts,
    )


def wiring(module: nn.Module, facts: LinearFacts) -> Wiring:
    """How `module`, described by `facts`, communicates. Needs megatron-core's process groups;
    changes nothing.
    """
    foreign: Any = module
    config = getattr(module, "config", None)
    group = _axis_group(module) if facts.kind is not ParallelKind.PLAIN else None
    ep_group = _expert_group(module) if facts.is_expert else None
    weight = _weight(module)
    return Wiring(
        kind=facts.kind,
        group=group if facts.axis_size > 1 else None,
        size=facts.axis_size,
        rank=group.rank() if group is not None and facts.axis_size > 1 else 0,
        sequence_parallel=_is_sequence_parallel(foreign, facts),
        reduces_outside=_reduces_outside(foreign, facts),
        splits_input=facts.kind is ParallelKind.ROW and not getattr(module, "input_is_parallel", True),
        norm_inside=_NORM_INSIDE in _qualified_names(module),
        norm_of_output=hasattr(module, _NORM_OF_OUTPUT),
        is_expert=facts.is_expert,
        ep_group=ep_group if facts.ep > 1 else None,
        ep_rank=ep_group.rank() if ep_group is not None and facts.ep > 1 else 0,
        ep_size=facts.ep,
        etp_is_tp=facts.axis_size == getattr(config, "tensor_model_parallel_size", 1),
        marks_sequence_parallel=bool(getattr(weight, "sequence_parallel", False)),
        dtype=weight.dtype if weight is not None and weight.dtype.is_floating_point else config.params_dtype,  # type: ignore[union-attr]
        device=_device(module),
    )


def linear_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The megatron-core class that `cls`, a linear's, derives from or is: what multiplies, without
    what a subclass does to the product.
    """
    own: type[nn.Module] = next(
        base for base in cls.__mro__ if f"{base.__module__}.{base.__qualname__}" in _KIND_BY_CLASS
    )
    return own


def bypasses_its_linears(module: nn.Module) -> bool:
    """Whether `module` reads the weights of its linears instead of calling them, so that an adapter
    would be ignored.
    """
    return _BYPASSES_ITS_LINEARS in _qualified_names(module)


def is_block(module: nn.Module) -> bool:
    """Whether `module` is a stack of layers, whose pieces activation recomputation runs twice."""
    return not _BLOCKS.isdisjoint(_qualified_names(module))


def recomputes_parameters(config: Any) -> bool:
    """Whether activation recomputation, as configured, runs modules with weights twice (the
    attention core has none).
    """
    granularity = getattr(config, "recompute_granularity", None)
    return granularity == "full" or (
        granularity == "selective" and set(config.recompute_modules or ()) != {"core_attn"}
    )


def data_parallel_wrapper(model: nn.Module) -> nn.Module | None:
    """The wrapper around `model` that reduces the gradients of the parameters it found when it was
    made; None where there is none.
    """
    foreign: Any = model
    while _DATA_PARALLEL.isdisjoint(_qualified_names(foreign)):
        if not _is_wrapper(foreign):
            return None
        foreign = foreign.module
    wrapper: nn.Module = foreign
    return wrapper


def is_grouped(module: nn.Module) -> bool:
    """Whether `module` is one grouped linear that holds the weights of several experts."""
    return _GROUPED in _qualified_names(module)


def is_router(module: nn.Module) -> bool:
    """Whether `module` is the gating of a mixture of experts."""
    return _kind_of(module) is ParallelKind.ROUTER


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside `DistributedDataParallel` and `Float16Module`: what module paths are
    relative to.
    """
    foreign: Any = model
    while _is_wrapper(foreign):
        foreign = foreign.module
    unwrapped: nn.Module = foreign
    return unwrapped


def layer_number(module: nn.Module) -> int | None:
    """megatron-core's own number of a layer in the whole model, counted from 1; None for what is no
    layer.
    """
    number = getattr(module, "layer_number", None)
    return number if isinstance(number, int) else None


def num_layers(model: nn.Module) -> int:
    """Decoder layers of the whole model, multi-token-prediction layers not counted; 0 where there
    is no config.
    """
    return getattr(getattr(model, "config", None), "num_layers", None) or 0


def num_pipeline_stages(model: nn.Module) -> int:
    """Ranks that the layers of the whole model are spread over; 1 where there is no config."""
    return getattr(getattr(model, "config", None), "pipeline_model_parallel_size", None) or 1


def own_parameters(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and tensor of the parameters that `module` holds itself."""
    return ((name, param) for name, param in module.named_parameters(recurse=False))


def tensor_parallel_size(model: nn.Module) -> int:
    """Ranks over which `model` is tensor-parallel; 1 where there is no config."""
    return int(getattr(getattr(model, "config", None), "tensor_model_parallel_size", None) or 1)


def model_numel(module: nn.Module, facts: LinearFacts | None, tp: int) -> int:
    """Elements of `module`'s own parameters in the whole model of `tp` ranks, each counted once; a
    tied copy counts 0.
    """
    return parameter_counts(module, facts, tp)[1]


def parameter_counts(module: nn.Module, facts: LinearFacts | None, tp: int) -> tuple[int, int]:
    """Elements of `module`'s own parameters on this rank, and `model_numel`."""
    on_rank = in_model = 0
    for name, param in own_parameters(module):
        numel = int(param.numel())
        on_rank += numel
        in_model += _whole_model_numel(numel, module, name, param, facts, tp)
    return on_rank, in_model


def _whole_model_numel(numel: int, module: nn.Module, name: str, param: Any, facts: LinearFacts | None, tp: int) -> int:
    if getattr(param, "shared", False):
        return 0
    if (
        facts is None
        or facts.kind in (ParallelKind.ROUTER, ParallelKind.PLAIN, ParallelKind.DUPLICATED)
        or name.startswith("layer_norm")
    ):
        split = (
            getattr(param, "tensor_model_parallel", False)
            or name in _SPLIT_OVER_HEADS
            or _EMBEDDING in _qualified_names(module)
        )
        return numel * tp if split else numel
    is_split = facts.kind is ParallelKind.COLUMN or param.dim() > 1
    return numel * (facts.axis_size if is_split else 1) * facts.ep


@cache
def _names_of(cls: Any) -> tuple[str, ...]:
    return tuple(f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__)


def _qualified_names(module: object) -> tuple[str, ...]:
    cls: Any = type(module)
    return _names_of(cls)


@cache
def _kind_of_class(cls: Any) -> ParallelKind | None:
    return next((_KIND_BY_CLASS[name] for name in _names_of(cls) if name in _KIND_BY_CLASS), None)


def _kind_of(module: object) -> ParallelKind | None:
    cls: Any = type(module)
    return _kind_of_class(cls)


def _is_wrapper(module: object) -> bool:
    wrappers = {
        "megatron.core.distributed.distributed_data_parallel.DistributedDataParallel",
        "megatron.core.transformer.module.Float16Module",
        "torch.nn.parallel.distributed.DistributedDataParallel",
    }
    return not wrappers.isdisjoint(_qualified_names(module))


def _axis_group(module: Any) -> ProcessGroup | None:
    """The tensor-parallel group that the module itself uses; None before groups exist."""
    group: ProcessGroup | None = getattr(module, "_tp_group", None) or getattr(module, "tp_group", None)
    return group if group is not None else getattr(getattr(module, "pg_collection", None), "tp", None)


def _axis_size(module: Any) -> int:
    group = _axis_group(module)
    if group is not None:
        return int(group.size())
    return int(getattr(getattr(module, "config", None), "tensor_model_parallel_size", 1))


def _expert_group(module: Any) -> ProcessGroup | None:
    collection = getattr(module, "_pg_collection", None)
    if collection is not None:
        group: ProcessGroup | None = collection.ep
        return group
    from megatron.core import parallel_state

    return parallel_state.get_expert_model_parallel_group(check_initialized=False)  # type: ignore[no-any-return]


def _weight(module: nn.Module) -> Any:
    """A weight of the linear; None where it borrows one (tied embeddings)."""
    return next((param for name, param in own_parameters(module) if name.startswith("weight")), None)


def _device(module: nn.Module) -> torch.device:
    """Where the linear computes. One that borrows its weight may hold no parameter: megatron-core
    makes those where the GPU is.
    """
    import torch

    parameter = next(module.parameters(), None)
    return torch.device(torch.cuda.current_device()) if parameter is None else parameter.device


def _is_sequence_parallel(module: Any, facts: LinearFacts) -> bool:
    """A replicated linear does not communicate and so keeps no flag of its own: the model's holds."""
    if facts.axis_size == 1 or facts.kind is ParallelKind.PLAIN or facts.is_expert:
        return False
    holder = module.config if facts.kind in (ParallelKind.DUPLICATED, ParallelKind.ROUTER) else module
    return bool(holder.sequence_parallel)


def _reduces_outside(module: Any, facts: LinearFacts) -> bool:
    if facts.axis_size == 1 or facts.kind not in (ParallelKind.COLUMN, ParallelKind.ROW):
        return False
    if any(name.startswith(_LAYERS) for name in _qualified_names(module)):
        return bool(module.explicit_expert_comm)
    return module.parallel_mode is None


def _features(module: Any, kind: ParallelKind, size: int) -> tuple[int, int]:
    """(in, out) features over all ranks. Transformer Engine keeps local numbers, megatron-core's
    own layers global ones.
    """
    if kind is ParallelKind.ROUTER:
        num_experts, hidden_size = module.weight.shape
        return int(hidden_size), int(num_experts)
    if any(name.startswith(_LAYERS) for name in _qualified_names(module)):
        return int(module.input_size), int(module.output_size)
    in_features, out_features = int(module.in_features), int(module.out_features)
    if kind is ParallelKind.COLUMN:
        return in_features, out_features * size
    if kind is ParallelKind.ROW:
        return in_features * size, out_features
    return in_features, out_features


def _parts(name: str, config: Any) -> tuple[str, ...]:
    """Canonical parts of a linear with the last name `name`. An MLP without a gate has an up
    projection only.
    """
    if name == "linear_fc1" and not getattr(config, "gated_linear_unit", True):
        return ("up",)
    return tuple(FUSED.get(name, ()))


def _fused_layout(segments: list[str], config: Any, out_features: int, tp: int) -> FusedLayout | None:
    """The packing of a fused linear, None for one that is adapted as a whole.

    Grouped experts and vision towers keep one adapter for the fused weight: so does
    Megatron-Bridge, and checkpoints follow it.
    """
    name = segments[-1]
    if name not in ("linear_qkv", "linear_fc1") or segments[0] == "vision_model" or segments[-2:-1] == ["experts"]:
        return None
    if name == "linear_fc1":
        return fc1_layout(out_features=out_features, tp=tp) if config.gated_linear_unit else None
    layout = qkv_layout(
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_query_groups,
        kv_channels=config.kv_channels,
        output_gate=bool(getattr(config, "attention_output_gate", False)),
    )
    if layout.out_features != out_features:
        parts = " + ".join(f"{part} {rows}" for part, rows in layout.out_features_by_part.items())
        raise GeometryError(
            f"{'.'.join(segments)} has {out_features} output rows, and its canonical parts have {parts} = {layout.out_features}: "
            "the packing of this attention is not known, so its q, k and v cannot be adapted separately."
        )
    layout.on_rank(0, tp)
    return layout
