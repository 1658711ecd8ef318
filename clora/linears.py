"""Describe modules of megatron-core, Transformer Engine and torch: what each is, and how it
communicates.

Only this file names their classes, and `megatron_releases.py`, which has what differs between
releases. Three rules make it safe to call on any model:

- A class is recognised by the qualified names in its method resolution order. Nothing is imported
  to find out, so the file works without Transformer Engine, and a subclass (a post-norm or a
  quantised linear) is recognised as its base.
- Looking changes nothing: no attribute is set and no shared config is touched.
- `getattr` with a default is written here and nowhere else in the library, because only foreign
  modules come with or without an attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from clora import megatron_releases
from clora.errors import GeometryError
from clora.fused import (
    FUSED,
    FusedLayout,
    Sections,
    delta_net_sections,
    fc1_layout,
    gate_up_sections,
    mamba_sections,
    qkv_layout,
)
from clora.layer_pattern import LayerPattern
from clora.plan import TowerKind

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.distributed import ProcessGroup

    Model = nn.Module | Sequence[nn.Module]
    """One rank's model, or the list of its virtual pipeline chunks. Each may be inside the wrappers
    of data parallelism and half precision.
    """

_LAYERS = "megatron.core.tensor_parallel.layers."
_TE = "megatron.core.extensions.transformer_engine."


class ParallelKind(StrEnum):
    """How the weight `[out, in]` of a linear lies over the ranks of its tensor-parallel axis."""

    COLUMN = "column"
    """Split along out; the input is whole on every rank."""
    ROW = "row"
    """Split along in; the output is whole on every rank."""
    DUPLICATED = "duplicated"
    """Whole on every rank of a tensor-parallel model."""
    ROUTER = "router"
    """Whole on every rank, as the gating of a mixture of experts. A kind of its own, because the
    forward of a router returns more than its product.
    """
    PLAIN = "plain"
    """A `torch.nn.Linear`, which knows no tensor parallelism."""


# Order matters: the first name found in the method resolution order decides, and Transformer
# Engine's column and row linears are subclasses of its duplicated one, `TELinear`.
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

_GROUPED = _TE + "TEGroupedLinear"
_NORM_INSIDE = _TE + "TELayerNormColumnParallelLinear"
_NORM_OF_OUTPUT = "post_layernorm"
"""Child module that normalises the output of a linear: Megatron-Bridge's name for it in Gemma 2."""
_OP_FUSER = "use_transformer_engine_op_fuser"
_BYPASSES_ITS_LINEARS = {
    _TE + "TEFusedMLP": _OP_FUSER,
    "megatron.core.transformer.moe.shared_experts.FusedSharedExpertMLP": "use_grouped_gemm_for_shared_expert",
}
"""Class that reads the weights of its linears and never calls them -> the field of the config that
asks for it.
"""
_GROUPED_EXPERTS = "megatron.core.transformer.moe.experts.TEGroupedMLP"
"""Reads the weights of its linears if `_with_fused_impl` is true, from 0.18."""
_LATENT_ATTENTION = "megatron.core.transformer.multi_latent_attention.MLASelfAttention"
_WRAPPERS = frozenset(
    {
        "megatron.core.distributed.distributed_data_parallel.DistributedDataParallel",
        "megatron.core.transformer.module.Float16Module",
        "torch.nn.parallel.distributed.DistributedDataParallel",
    }
)
"""Modules around a model that keep it in their attribute `module`."""
_DATA_PARALLEL = frozenset(
    {
        "megatron.core.distributed.data_parallel_base._BaseDataParallel",
        "torch.nn.parallel.distributed.DistributedDataParallel",
    }
)
_TOWER_BY_CLASS = {
    "megatron.core.models.common.language_module.language_module.LanguageModule": TowerKind.LANGUAGE,
    "megatron.core.models.common.vision_module.vision_module.VisionModule": TowerKind.VISION,
    "megatron.core.models.vision.multimodal_projector.MultimodalProjector": TowerKind.PROJECTOR,
}
"""Base classes of the models that megatron-core puts together to one of several modalities:
GPTModel, BertModel, T5Model and MambaModel are language modules, CLIPViTModel and RADIOViTModel
vision modules.
"""
_LIST = "torch.nn.modules.container.ModuleList"
_MIXERS = ("mixer", "self_attention")
"""Parents of an `in_proj`: the mixer of a Mamba layer, and that of a gated delta net."""
_SPLIT_OVER_HEADS = frozenset({"softmax_offset"})
"""Parameters with one entry per attention head of the rank. Transformer Engine splits them over the
tensor-parallel ranks and does not mark them.
"""
_EMBEDDING = _LAYERS + "VocabParallelEmbedding"
"""Split over the tensor-parallel ranks. megatron-core marks its weight only while initialising it,
which does not happen on the meta device.
"""


@dataclass(frozen=True, slots=True)
class LinearFacts:
    """The facts of a linear that decide the shapes of its adapters. Features count all ranks."""

    kind: ParallelKind
    in_features: int
    out_features: int
    axis: str | None
    """Mesh axis that splits the weight: "tp", "etp" in routed experts, None for a plain linear."""
    axis_size: int
    is_expert: bool = False
    """True in routed experts; shared experts are ordinary linears."""
    num_local_experts: int = 0
    """Experts in one grouped linear; 0 for any other linear."""
    num_experts: int = 0
    """Routed experts of the layer on all ranks; 0 outside routed experts."""
    ep: int = 1
    topk: int = 0
    """`moe_router_topk` of the layer; 0 outside routed experts."""
    parts: tuple[str, ...] = ()
    """Canonical parts that share the rows; empty unless the linear has the name of a fused one."""
    fused: FusedLayout | None = None
    """How the parts are packed; None when they get one adapter together."""
    sections: Sections = ()
    """The sections of the output rows, when there are several: each rank holds its share of the
    first, behind it its share of the second, and so on. Empty for rows that the ranks share in
    plain order.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """How a live linear communicates and where its weights are. Its adapter has to do likewise."""

    kind: ParallelKind
    group: ProcessGroup | None
    """Tensor-parallel group of the linear; None when its axis has one rank."""
    size: int
    rank: int
    sequence_parallel: bool
    """True if the input (column, duplicated) or the output (row) is one rank's part of the
    sequence.
    """
    reduces_outside: bool
    """True if other code gathers the input and sums the output over the axis: the token dispatcher
    of routed experts, or the overlapped shared expert.
    """
    splits_input: bool
    """True if a row-parallel linear receives its whole input and takes its own columns of it."""
    norm_inside: bool
    """True if a norm in the same module makes the input of the product."""
    norm_of_output: bool
    """True if the module normalises its product (Gemma 2), so that a delta has to be added before
    that norm.
    """
    is_expert: bool
    ep_group: ProcessGroup | None
    """Expert-parallel group of a routed expert; None when it has one rank."""
    ep_rank: int
    ep_size: int
    etp_is_tp: bool
    """True if etp = tp, so that the expert ranks of one etp rank have one tp rank, too."""
    marks_sequence_parallel: bool
    """True if megatron-core marks the weight as `sequence_parallel`: every rank holds it, with the
    gradient of its own part of the sequence.
    """
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers in a model's config that an export compares with those of Hugging Face."""

    num_layers: int | None
    hidden_size: int | None
    num_query_groups: int
    heads_per_group: int
    kv_channels: int
    has_output_gate: bool
    is_gated: bool = False
    """True if the rows of an MLP's `linear_fc1` are gate and up."""

    @property
    def heads(self) -> tuple[int, int, int]:
        """Key-value groups, query heads of a group, channels of a head."""
        return self.num_query_groups, self.heads_per_group, self.kv_channels


def describe(module: nn.Module, path: str) -> LinearFacts | None:
    """Return the facts of the linear or router `module`, or None for any other module.

    Args:
        module: any module of a model.
        path: its path in the model. Its last names decide whether it is fused and whether it
            belongs to routed experts.

    Raises:
        GeometryError: the rows of a fused linear are not the sum of its canonical parts, the
            tensor-parallel ranks do not divide its key-value groups, or the weight is split or
            packed in a way that is not known.
    """
    kind = _kind_of(module)
    if kind is None:
        return None
    foreign: Any = module
    # torch's own linear has no config.
    config: Any = getattr(module, "config", None)
    segments = path.split(".")
    # A linear of torch's is on every rank as a whole, also below experts.
    is_expert = "experts" in segments and kind not in (ParallelKind.ROUTER, ParallelKind.PLAIN)
    if is_expert and not hasattr(config, "num_moe_experts"):
        raise GeometryError(
            f"{path} is a {type(module).__name__} below experts, and its config has no num_moe_experts: the number of "
            "experts and ranks decides the shapes of its adapters. Build it with a TransformerConfig."
        )
    size = 1 if kind is ParallelKind.PLAIN else _axis_size(foreign, path, is_expert=is_expert)
    if kind is not ParallelKind.PLAIN:
        _refuse_unknown_layout(module, path, is_expert=is_expert)
    in_features, out_features = _features(foreign, kind, size)
    expert_facts: dict[str, int] = {}
    if is_expert:
        expert_facts = {
            "num_local_experts": foreign.num_gemms if _GROUPED in _qualified_names(module) else 0,
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
        sections=_sections(segments, config, out_features, size) if kind is ParallelKind.COLUMN else (),
        **expert_facts,
    )


def wiring(module: nn.Module, facts: LinearFacts) -> Wiring:
    """Return how the linear `module`, described by `facts`, communicates.

    megatron-core's process groups must exist.
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
        # Transformer Engine's row linear has no such attribute: it refuses input_is_parallel=False.
        splits_input=facts.kind is ParallelKind.ROW and not getattr(module, "input_is_parallel", True),
        norm_inside=_NORM_INSIDE in _qualified_names(module),
        norm_of_output=hasattr(module, _NORM_OF_OUTPUT),
        is_expert=facts.is_expert,
        ep_group=ep_group if facts.ep > 1 else None,
        ep_rank=ep_group.rank() if ep_group is not None and facts.ep > 1 else 0,
        ep_size=facts.ep,
        etp_is_tp=facts.axis_size == getattr(config, "tensor_model_parallel_size", 1),
        marks_sequence_parallel=bool(getattr(weight, "sequence_parallel", False)),
        # A quantised or borrowed weight says nothing of the dtype that adapters should have.
        dtype=weight.dtype if weight is not None and weight.dtype.is_floating_point else config.params_dtype,  # type: ignore[union-attr]
        device=_device(module),
    )


def linear_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the known class that the linear class `cls` is or derives from.

    Its forward multiplies and does nothing that a subclass adds, such as a norm of the output.
    """
    known: type[nn.Module] = next(
        base for base in cls.__mro__ if f"{base.__module__}.{base.__qualname__}" in _KIND_BY_CLASS
    )
    return known


def bypassed_by(module: nn.Module) -> str | None:
    """Return the field of megatron-core's config because of which `module` reads the weights of its
    linears instead of calling them; None if it calls them.

    An adapter in a linear that is not called would be ignored.
    """
    names = _qualified_names(module)
    # No release before 0.18 sets the attribute.
    if _GROUPED_EXPERTS in names and getattr(module, "_with_fused_impl", False):
        return _OP_FUSER
    return next((_BYPASSES_ITS_LINEARS[name] for name in names if name in _BYPASSES_ITS_LINEARS), None)


def absorbs_its_up_projection(module: nn.Module) -> bool:
    """Return whether `module` is a latent attention that multiplies the weight of its
    `linear_kv_up_proj` into others and deletes the linear, when it decodes (`cache_mla_latents`).
    """
    return _LATENT_ATTENTION in _qualified_names(module) and bool(_config_value(module, "cache_mla_latents", False))


def clips_queries_and_keys(model: nn.Module) -> bool:
    """Return whether the training loop scales weights of the attention in place (`qk_clip`)."""
    return bool(_config_value(model, "qk_clip", False))


def delays_weight_gradients(module: nn.Module) -> bool:
    """Return whether `module` is a linear of Transformer Engine whose weight gradient megatron-core
    computes after the backward (`delay_wgrad_compute`).
    """
    if not any(name.startswith(_TE) and name in _KIND_BY_CLASS for name in _qualified_names(module)):
        return False
    foreign: Any = module
    return bool(foreign.config.delay_wgrad_compute)


def wants_weight_gradient(module: nn.Module) -> bool:
    """Return whether a weight of the linear `module` is trainable."""
    # A norm inside the linear has a weight of its own, whose gradient is never delayed.
    return any(
        param.requires_grad for name, param in module.named_parameters(recurse=False) if name.startswith("weight")
    )


def is_block(module: nn.Module) -> bool:
    """Return whether `module` is a stack of layers."""
    return not megatron_releases.BLOCKS.isdisjoint(_qualified_names(module))


def is_list(module: nn.Module) -> bool:
    """Return whether `module` is torch's list of modules."""
    return _LIST in _qualified_names(module)


def tower_kind(module: nn.Module) -> TowerKind | None:
    """Return the kind of tower that the class of `module` makes it; None for any other class."""
    return next((_TOWER_BY_CLASS[name] for name in _qualified_names(module) if name in _TOWER_BY_CLASS), None)


def language_model(model: nn.Module) -> nn.Module:
    """Return megatron-core's language model in `model`, one chunk; `model` where there is none.

    Its config and its attributes are those of the model that is trained. A module around it, such
    as one with a head of its own, may have none.
    """
    return next((part for part in model.modules() if tower_kind(part) is TowerKind.LANGUAGE), model)


def has_gate(module: nn.Module) -> bool | None:
    """Return whether the MLPs of a tower have a gate; None for a tower without a config."""
    gated = _config_value(module, "gated_linear_unit", None)
    return None if gated is None else bool(gated)


def recomputes_parameters(block: nn.Module) -> bool:
    """Return whether activation recomputation runs some weights of the stack `block` twice."""
    foreign: Any = block
    config = foreign.config
    # The attention core is the one module of selective recomputation that has no weights.
    return config.recompute_granularity == "full" or (
        config.recompute_granularity == "selective" and set(config.recompute_modules) != {"core_attn"}
    )


def recomputed_mlp(layer: nn.Module) -> nn.Module | None:
    """Return the MLP of `layer` that selective recomputation runs twice as a whole; None when there
    is none.
    """
    foreign: Any = layer
    mlp: nn.Module | None = foreign.mlp if getattr(layer, "recompute_mlp", False) else None
    return mlp


def captures_layers(block: nn.Module) -> bool:
    """Return whether megatron-core captures each layer of the stack `block` in CUDA graphs."""
    foreign: Any = block
    return bool(foreign.config.cuda_graph_impl == "local")


def data_parallel_wrapper(model: nn.Module) -> nn.Module | None:
    """Return the data-parallel wrapper around `model`; None when there is none."""
    foreign: Any = model
    while _DATA_PARALLEL.isdisjoint(_qualified_names(foreign)):
        if not _is_wrapper(foreign):
            return None
        foreign = foreign.module
    wrapper: nn.Module = foreign
    return wrapper


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside `DistributedDataParallel` and `Float16Module`.

    Module paths are relative to it.
    """
    foreign: Any = model
    while _is_wrapper(foreign):
        foreign = foreign.module
    unwrapped: nn.Module = foreign
    return unwrapped


def wrappers_around(model: nn.Module) -> list[nn.Module]:
    """Return the wrappers around the model in `model`, the outermost first."""
    foreign: Any = model
    found: list[nn.Module] = []
    while _is_wrapper(foreign):
        found.append(foreign)
        foreign = foreign.module
    return found


def chunks_of(model: Model) -> list[nn.Module]:
    """Return the chunks of `model` without their wrappers; a model without chunks is one."""
    return [unwrap(chunk) for chunk in (model if isinstance(model, Sequence) else [model])]


def layer_number(module: nn.Module) -> int | None:
    """Return megatron-core's number of a layer in the whole model, counted from 1.

    None for a module that is not a layer.
    """
    number = getattr(module, "layer_number", None)
    return number if isinstance(number, int) else None


def num_layers(model: nn.Module) -> int:
    """Return the decoder layers of the whole model, multi-token-prediction layers not counted.

    0 for a model without a config.
    """
    return int(_config_value(model, "num_layers", 0))


def layer_pattern(model: nn.Module) -> LayerPattern | None:
    """Return the letters of the layers of a HybridModel or MambaModel; None for any other model."""
    language = language_model(model)
    # Releases up to 0.16 have the second name.
    for name in ("hybrid_layer_pattern", "hybrid_override_pattern"):
        written = getattr(language, name, None)
        if isinstance(written, str):
            return LayerPattern.read(written)
    return None


def num_pipeline_stages(model: nn.Module) -> int:
    """Return the number of ranks that share the layers; 1 for a model without a config."""
    return int(_config_value(model, "pipeline_model_parallel_size", 1))


def pipeline_group(model: nn.Module | None = None) -> ProcessGroup | None:
    """Return the group of the ranks that share the layers of `model`, or of the job's model; None
    before groups exist.
    """
    collection = None if model is None else getattr(language_model(model), "pg_collection", None)
    group: ProcessGroup | None = getattr(collection, "pp", None)
    if group is None:
        from megatron.core import parallel_state

        group = parallel_state.get_pipeline_model_parallel_group(check_initialized=False)
    return group


def tensor_parallel_size(model: nn.Module) -> int:
    """Return the number of tensor-parallel ranks; 1 for a model without a config."""
    return int(_config_value(model, "tensor_model_parallel_size", 1))


def model_shape(model: nn.Module) -> ModelShape:
    """Return the sizes in the config of `model`; without a config, the sizes of one head."""
    groups = _config_value(model, "num_query_groups", 1)
    return ModelShape(
        num_layers=_config_value(model, "num_layers", None),
        hidden_size=_config_value(model, "hidden_size", None),
        num_query_groups=groups,
        heads_per_group=_config_value(model, "num_attention_heads", groups) // groups,
        kv_channels=_config_value(model, "kv_channels", 1),
        has_output_gate=bool(_config_value(model, "attention_output_gate", False)),
        is_gated=bool(_config_value(model, "gated_linear_unit", False)),
    )


def is_tied_copy(weight: torch.Tensor) -> bool:
    """Return whether `weight` is one of the two copies of an embedding on different stages.

    megatron-core marks both copies and keeps them equal by summing their gradients.
    """
    return bool(getattr(weight, "shared_embedding", False))


def copied_parameters(model: nn.Module) -> frozenset[int]:
    """Return the ids of the parameters of `model`, one chunk, that are copies of an embedding on
    another pipeline stage.

    A stage without the embedding has a copy of it where it predicts several tokens, and an output
    layer of its own where that is tied. megatron-core marks at most one of the two.
    """
    copies: set[int] = set()
    for part in model.modules():
        children = dict(part.named_children())
        if getattr(part, "pre_process", True) or not hasattr(part, "share_embeddings_and_output_weights"):
            continue
        if "embedding" in children:
            copies.update(map(id, children["embedding"].parameters()))
        if "output_layer" in children and part.share_embeddings_and_output_weights:
            weight = dict(children["output_layer"].named_parameters(recurse=False)).get("weight")
            copies |= {id(weight)} if weight is not None else set()
    return frozenset(copies)


def has_sharded_state(cls: type[nn.Module]) -> bool:
    """Return whether objects of `cls` describe their own shards; torch's linears do not."""
    return hasattr(cls, "sharded_state_dict")


def sharded_state(chunk: nn.Module, *, per_layer: bool = False) -> dict[str, Any]:
    """Return megatron-core's sharded tensors of a model chunk, those of its adapters among them.

    Args:
        chunk: the chunk.
        per_layer: True for keys with the number of the layer also where all layers are alike. By
            default one key then stands for the tensors of all layers.
    """
    from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group

    # GPTModel needs the metadata on the stage of multi-token prediction, and does not make them.
    metadata = ensure_metadata_has_dp_cp_group(None)
    if per_layer:
        metadata["non_homogeneous_layers"] = True
    return _sharded_below(chunk, "", metadata)


def _sharded_below(module: Any, prefix: str, metadata: dict[str, Any]) -> dict[str, Any]:
    if has_sharded_state(type(module)) and not ties_an_output_layer_in_vain(module):
        state: dict[str, Any] = module.sharded_state_dict(prefix=prefix, metadata=metadata)
        return state
    from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

    # A module of torch's, or a GPTModel whose own method does this and then fails. megatron-core's
    # default takes all that is below a module of torch's for copies, shards too.
    own = {name: value for name, value in module.state_dict(keep_vars=True).items() if "." not in name}
    state = make_sharded_tensors_for_checkpoint(own, prefix, tp_group=None, dp_cp_group=metadata["dp_cp_group"])
    for name, child in module.named_children():
        state |= _sharded_below(child, f"{prefix}{name}.", metadata)
    return state


def ties_an_output_layer_in_vain(chunk: nn.Module) -> bool:
    """Return whether megatron-core cannot describe the shards of this chunk.

    With tied embeddings, the stage of multi-token prediction has an embedding of its own, and an
    output layer whose weight nobody uses. Behind the first stage GPTModel makes that weight and
    then asserts, when it describes the shards, that there is none.
    """
    model: Any = chunk
    flags = ("share_embeddings_and_output_weights", "post_process", "mtp_process")
    return all(getattr(model, flag, False) for flag in flags) and not getattr(model, "pre_process", True)


def model_numel(module: nn.Module, facts: LinearFacts | None, tp: int, copies: frozenset[int] = frozenset()) -> int:
    """Return the elements of `module`'s own parameters in the whole model of `tp` ranks.

    Each element counts once, however many ranks hold it. One of `copies`, the
    `copied_parameters` of its chunk, counts 0.
    """
    return parameter_counts(module, facts, tp, copies)[1]


def parameter_counts(
    module: nn.Module, facts: LinearFacts | None, tp: int, copies: frozenset[int] = frozenset()
) -> tuple[int, int]:
    """Return the elements of `module`'s own parameters on this rank, and `model_numel`."""
    on_rank = in_model = 0
    for name, param in module.named_parameters(recurse=False):
        numel = int(param.numel())
        on_rank += numel
        if id(param) not in copies:
            in_model += _numel_in_model(numel, module, name, param, facts, tp)
    return on_rank, in_model


def _numel_in_model(numel: int, module: nn.Module, name: str, param: Any, facts: LinearFacts | None, tp: int) -> int:
    # megatron-core marks the copy of a tied embedding on the last stage as `shared`.
    if getattr(param, "shared", False):
        return 0
    # Before the marks: off the meta device Transformer Engine marks the weight of every linear as a
    # shard, a duplicated one's too.
    if facts is not None and facts.kind is ParallelKind.DUPLICATED:
        return numel
    # `layer_norm_weight` is the norm inside Transformer Engine's linear, whole on every rank.
    if facts is None or facts.kind in (ParallelKind.ROUTER, ParallelKind.PLAIN) or name.startswith("layer_norm"):
        split = (
            getattr(param, "tensor_model_parallel", False)
            or name in _SPLIT_OVER_HEADS
            or _EMBEDDING in _qualified_names(module)
        )
        return numel * tp if split else numel
    # The bias of a row-parallel linear is added after the sum over the ranks: each rank holds it.
    is_split = facts.kind is ParallelKind.COLUMN or param.dim() > 1
    return numel * (facts.axis_size if is_split else 1) * facts.ep


def _config_value(model: nn.Module, name: str, default: Any) -> Any:
    """Return a field of the model's config, or `default` when it is missing or None."""
    value = getattr(getattr(model, "config", None), name, None)
    if value is None and not hasattr(model, "config"):
        value = getattr(getattr(language_model(model), "config", None), name, None)
    return default if value is None else value


def quantise_weights_anew(module: Any) -> None:
    """Make the next forward of a linear read its weights, which have changed.

    With fp8, megatron-core has Transformer Engine keep an 8-bit copy of each weight from the first
    micro-batch of a step to the first of the next. Without this, a forward in between would compute
    with the old weights.
    """
    if hasattr(module, "is_first_microbatch"):
        module.is_first_microbatch = True


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
    return not _WRAPPERS.isdisjoint(_qualified_names(module))


def _axis_group(module: Any) -> ProcessGroup | None:
    """Return the tensor-parallel group that `module` uses; None before groups exist."""
    # Transformer Engine's linears keep it as `_tp_group`, since TE has a `tp_group` of its own that
    # is None for routed experts. megatron-core's linears and routers keep it as `tp_group`.
    group: ProcessGroup | None = getattr(module, "_tp_group", None) or getattr(module, "tp_group", None)
    return group


def _axis_size(module: Any, path: str, *, is_expert: bool) -> int:
    group = _axis_group(module)
    if group is not None:
        return int(group.size())
    # Without a group it is not known which axis splits the weight: experts have one of their own.
    fields = ("tensor_model_parallel_size", "expert_tensor_parallel_size" if is_expert else None)
    sizes = {field: _config_value(module, field, 1) for field in fields if field}
    if all(size == 1 for size in sizes.values()):
        return 1
    asked = ", ".join(f"{field} = {size}" for field, size in sizes.items())
    raise GeometryError(
        f"{path} is a {type(module).__name__} that keeps no tensor-parallel group, so that nobody knows over how many "
        f"ranks its weight is split ({asked}). Initialise megatron-core's process groups before the model is built, "
        f"and use a release that is supported ({megatron_releases.supported_series()})."
    )


def _refuse_unknown_layout(module: nn.Module, path: str, *, is_expert: bool) -> None:
    """Raise where the weight of a linear is split or stored in a way that no adapter can follow."""
    foreign: Any = module
    unknown = megatron_releases.unknown_split(foreign.config, is_expert=is_expert)
    if unknown is None and _GROUPED in _qualified_names(module) and not hasattr(module, "weight0"):
        unknown = "the weights of its experts are one tensor (moe_single_grouped_weight)"
    if unknown is not None:
        raise GeometryError(f"{path}: {unknown}. This is not supported: adapters there would have other shapes.")


def _expert_group(module: Any) -> ProcessGroup | None:
    """Return the expert-parallel group of a routed expert; None before groups exist."""
    # Only grouped linears keep their groups; a sequential expert's linears do not know this one.
    collection = getattr(module, "_pg_collection", None)
    if collection is not None:
        group: ProcessGroup | None = collection.ep
        return group
    from megatron.core import parallel_state

    return parallel_state.get_expert_model_parallel_group(check_initialized=False)  # type: ignore[no-any-return]


def _weight(module: nn.Module) -> Any:
    """Return a weight of the linear; None when it borrows one, as a tied output layer does."""
    return next((param for name, param in module.named_parameters(recurse=False) if name.startswith("weight")), None)


def _device(module: nn.Module) -> torch.device:
    import torch

    # A linear with a borrowed weight may hold no parameter. megatron-core makes the one it borrows
    # on the current GPU.
    parameter = next(module.parameters(), None)
    return torch.device(torch.cuda.current_device()) if parameter is None else parameter.device


def _is_sequence_parallel(module: Any, facts: LinearFacts) -> bool:
    if facts.axis_size == 1 or facts.kind is ParallelKind.PLAIN or facts.is_expert:
        return False
    # Transformer Engine takes a duplicated linear for one on a single rank and clears its flag, and
    # a router has none. Both see one rank's part of the sequence when the model says so.
    holder = module.config if facts.kind in (ParallelKind.DUPLICATED, ParallelKind.ROUTER) else module
    return bool(holder.sequence_parallel)


def _reduces_outside(module: Any, facts: LinearFacts) -> bool:
    if facts.axis_size == 1 or facts.kind not in (ParallelKind.COLUMN, ParallelKind.ROW):
        return False
    # megatron-core says so in two ways, for routed experts and for overlapped shared experts alike:
    # its own linears get `explicit_expert_comm`, those of Transformer Engine no `parallel_mode`.
    if _is_megatron_layer(module):
        return bool(module.explicit_expert_comm)
    return module.parallel_mode is None


def _features(module: Any, kind: ParallelKind, size: int) -> tuple[int, int]:
    """Return the (in, out) features over all ranks."""
    if kind is ParallelKind.ROUTER:
        num_experts, hidden_size = module.weight.shape
        return int(hidden_size), int(num_experts)
    # megatron-core's own linears keep the features of all ranks, and Transformer Engine's linears
    # those of one rank.
    if _is_megatron_layer(module):
        return int(module.input_size), int(module.output_size)
    in_features, out_features = int(module.in_features), int(module.out_features)
    if kind is ParallelKind.COLUMN:
        return in_features, out_features * size
    if kind is ParallelKind.ROW:
        return in_features * size, out_features
    return in_features, out_features


def _is_megatron_layer(module: object) -> bool:
    return any(name.startswith(_LAYERS) for name in _qualified_names(module))


def _parts(name: str, config: Any) -> tuple[str, ...]:
    """Return the canonical parts of a linear with the last name `name`."""
    # A `linear_fc1` without a gate holds an up projection only.
    if name == "linear_fc1" and not getattr(config, "gated_linear_unit", True):
        return ("up",)
    return tuple(FUSED.get(name, ()))


def _fused_layout(segments: list[str], config: Any, out_features: int, tp: int) -> FusedLayout | None:
    """Return how a column-parallel linear is packed; None for one that is adapted as a whole.

    Grouped experts have one adapter for a fused weight, and so has all below `vision_model`:
    Megatron-Bridge does so for `linear_fc1`, and adapter checkpoints follow it.
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
        output_gate=config.attention_output_gate,
    )
    if layout.out_features != out_features:
        parts = " + ".join(f"{part} {rows}" for part, rows in layout.out_features_by_part.items())
        raise GeometryError(
            f"{'.'.join(segments)} has {out_features} output rows, and its canonical parts have "
            f"{parts} = {layout.out_features}: the packing of this attention is not known, so its q, k and v "
            "cannot be adapted separately."
        )
    layout.on_rank(0, tp)  # Refuse now a number of ranks that cannot share the key-value groups.
    return layout


def _sections(segments: list[str], config: Any, out_features: int, tp: int) -> Sections:
    """Return the sections of a column-parallel linear's rows; none when its rows are in one."""
    parent, name = segments[-2:] if len(segments) > 1 else ("", segments[-1])
    if _parts(name, config) == ("gate", "up"):
        unknown = megatron_releases.unknown_packing(config, segments)
        if unknown is not None:
            raise GeometryError(f"{'.'.join(segments)}: {unknown}. This packing is not supported: leave the field out.")
        return gate_up_sections(out_features)
    if name != "in_proj":
        return ()
    if parent == "mixer":
        sections = mamba_sections(
            out_features=out_features,
            head_dim=config.mamba_head_dim,
            num_groups=config.mamba_num_groups,
            state_dim=config.mamba_state_dim,
        )
    else:
        sections = delta_net_sections(
            key_dim=(config.linear_key_head_dim or 0) * (config.linear_num_key_heads or 0),
            value_dim=(config.linear_value_head_dim or 0) * (config.linear_num_value_heads or 0),
            num_value_heads=config.linear_num_value_heads or 0,
        )
    if sum(rows for _, rows in sections) == out_features:
        return sections
    if tp > 1 and parent in _MIXERS:
        raise GeometryError(
            f"{'.'.join(segments)} has {out_features} output rows, and those of a known mixer in this config are "
            f"{sum(rows for _, rows in sections)}: how {tp} ranks share them is not known. Use tp 1, or leave it out."
        )
    # A linear of that name elsewhere in a foreign model has rows in plain order.
    return ()
