"""Put the adapters of a plan into a live model, and take them out again.

This is the only file that writes to foreign modules. `apply` is all or nothing: it looks everything
up and checks it before it changes anything, it undoes what it did when something fails on the way,
and at the end it finds every placement of the plan in the model exactly once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Protocol

from clora import linears, wrappers
from clora.adapters import Adapter, Dropout, GroupedExpertLinearAdapter, LinearAdapter, ParallelLinearAdapter
from clora.delayed_gradients import restore_delayed_gradients, skip_missing_gradients
from clora.errors import AlreadyAdaptedError, SurgeryError, UnmatchedTargetError
from clora.linears import chunks_of
from clora.merge import merge_adapters, unmerge_adapters
from clora.patterns import canonical_names, nearest
from clora.recompute import enable_input_gradients, return_views_of_biases
from clora.wrappers import Adapted, ModuleDict, adapted_class, adapted_modules

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle

    from clora.fused import RankRows
    from clora.linears import LinearFacts, Model, Wiring
    from clora.plan import Placement, Plan

_log = logging.getLogger("clora")

# A plan is data and names the classes; these are the names that it may use.
ADAPTER_CLASSES: dict[str, type[Adapter]] = {
    cls.__name__: cls for cls in (ParallelLinearAdapter, LinearAdapter, GroupedExpertLinearAdapter)
}
WRAPPER_CLASSES: dict[str, type[Adapted]] = {
    cls.__name__: cls
    for cls in (
        wrappers.LoRALinear,
        wrappers.LoRALinearSplitQKV,
        wrappers.LoRALinearSplitFC1UpGate,
        wrappers.LoRATopKRouter,
    )
}
_BEFORE_SURGERY = "clora_surgery"
"""Attribute of an adapted chunk that holds its `_BeforeSurgery`."""
_OWN_ATTRIBUTES = ("adapter_enabled", "placements", "wiring", "rows", "attributes_before", "enabled_before_merge")
"""Attributes that surgery and merging set on an adapted module."""


class AdapterOptions(Protocol):
    """The fields of `CanonicalLoRA` that decide how an adapter starts and trains.

    Its shapes are in the plan. Surgery names the fields and not the class, because the class
    imports surgery.
    """

    dropout: float
    dropout_position: Literal["pre", "post"]
    lora_A_init_method: str  # noqa: N815
    lora_B_init_method: str  # noqa: N815

    def freeze_model(self, model: Model, training: bool = True) -> None:
        """Freeze the base. A user's subclass may keep some of it trainable."""

    def finish_surgery(self, model: Model) -> None:
        """Make `model` ready for the trainer around it; `clora.bridge` does so."""


@dataclass
class _BeforeSurgery:
    """The state of one chunk that `revert` restores."""

    # Names and no modules: a copy of the chunk must not copy what stands around it.
    trainable: dict[str, bool]
    """Name of every parameter -> whether it was trainable."""
    train_mode: dict[str, bool]
    """Name of every module -> whether it was in train mode."""
    kept_trainable: frozenset[str] = frozenset()
    """Names of the base's parameters that `freeze_model` left trainable."""
    hooks: list[RemovableHandle] = field(default_factory=list)
    delayed: list[nn.Module] = field(default_factory=list)
    """Linears that compute no delayed weight gradients while the base is frozen."""


@dataclass(frozen=True, slots=True)
class _Site:
    """One module to adapt, looked up and checked."""

    module: nn.Module
    facts: LinearFacts
    wiring: Wiring
    placements: tuple[Placement, ...]

    @property
    def rows(self) -> RankRows | None:
        """How the module's output rows are packed; None when it is adapted as a whole."""
        if self.facts.fused is None or self.placements[0].part is None:
            return None
        return self.facts.fused.on_rank(self.wiring.rank, self.wiring.size)


def apply(plan: Plan, model: Model, lora: AdapterOptions, *, training: bool = True) -> None:
    """Carry out `plan` on `model` in place: freeze the model and adapt what the plan names.

    `CanonicalLoRA.__call__` plans and applies. Use this when you want to look at the plan, or to
    change it, in between. When it fails, the model is as it was before.

    Args:
        plan: what `lora.plan(model)` returned on this rank, or a saved plan that
            `clora_inspect.load_plan` has read.
        model: one rank's model, or the list of its virtual pipeline chunks.
        lora: the `CanonicalLoRA`, for dropout and initialisation of the adapters.
        training: True puts the whole model into train mode, False into eval mode with frozen
            adapters.

    Raises:
        AlreadyAdaptedError: the model has adapters.
        UnmatchedTargetError: no target matches anything in the whole model.
        SurgeryError: the plan belongs to another model or layout, or the model cannot be adapted as
            it is.
    """
    chunks = chunks_of(model)
    _refuse_adapted(chunks)
    plan.check(chunks)
    # Without training there are no gradients that data parallelism would have to reduce.
    if training:
        _refuse_data_parallel(model)
        _refuse_clipping(chunks)
    _report_unmatched(plan, chunks)
    # The planner puts the placements of one module next to each other, as `groupby` needs them.
    sites = [
        _site(chunks, list(group))
        for _, group in groupby(plan.placements, key=lambda placement: (placement.chunk, placement.module))
    ]
    for chunk in chunks:
        setattr(chunk, _BEFORE_SURGERY, _state_of(chunk))
    try:
        # Before the adapters, so that a subclass's own freezing sees the base alone.
        lora.freeze_model(model, training=training)
        for site in sites:
            _adapt(site, lora, training=training)
        for number, chunk in enumerate(chunks):
            _prepare_backward(
                chunk,
                [placement.module for placement in plan.placements if placement.chunk == number],
                training=training,
            )
        for chunk in model if isinstance(model, Sequence) else [model]:
            chunk.train(training)
        lora.finish_surgery(chunks)
        _check_each_placement_once(plan, chunks)
    except BaseException:
        # An interrupt leaves half an adapted model, too.
        revert(chunks)
        raise


def adapt_module(module: nn.Module, path: str, placements: tuple[Placement, ...], lora: AdapterOptions) -> None:
    """Adapt one linear in place and freeze nothing. An adapted one is left as it is.

    Args:
        module: a linear of a model.
        path: its path in that model.
        placements: the placements at that path in a plan of that model.
        lora: the `CanonicalLoRA`, for dropout and initialisation of the adapters.
    """
    facts = linears.describe(module, path)
    if facts is not None and not isinstance(module, Adapted):
        _adapt(_Site(module, facts, linears.wiring(module, facts), placements), lora, training=True)
        lora.finish_surgery(module)


def _adapt(site: _Site, lora: AdapterOptions, *, training: bool) -> None:
    module, wiring, placements, rows = site.module, site.wiring, site.placements, site.rows
    adapters = {placement.part: _new_adapter(placement, site, rows, lora) for placement in placements}
    adapter = (
        adapters[None]
        if None in adapters
        else ModuleDict({f"adapter_{part}": child for part, child in adapters.items()}, site.facts.parts)
    )
    adapter.requires_grad_(training)
    adapter.train(module.training and training)
    cls = adapted_class(WRAPPER_CLASSES[placements[0].wrapper], type(module))
    module.add_module("adapter", adapter)
    # Nothing below can fail, so a module is adapted or it is not.
    foreign: Any = module
    foreign.attributes_before = {}
    if wiring.norm_inside:
        # The adapter multiplies the output of the norm, as the weight does.
        foreign.attributes_before["return_layernorm_output"] = foreign.return_layernorm_output
        foreign.return_layernorm_output = True
    foreign.placements = placements
    foreign.wiring = wiring
    foreign.adapter_enabled = True
    foreign.rows = rows
    foreign.__class__ = cls


def revert(model: Model) -> None:
    """Take all adapters out of `model`, which is then as it was before surgery.

    The module objects stay, and parameters are trainable as they were. A merged model is unmerged
    first; a model without adapters is left as it is.

    Args:
        model: one rank's model, or the list of its virtual pipeline chunks.
    """
    unmerge_adapters(chunks_of(model))
    for chunk in chunks_of(model):
        # A list, because restoring a module changes the tree that is being walked.
        for _, module in list(adapted_modules(chunk)):
            _restore(module)
        record: _BeforeSurgery | None = chunk.__dict__.pop(_BEFORE_SURGERY, None)
        if record is None:
            continue
        for hook in record.hooks:
            hook.remove()
        restore_delayed_gradients(record.delayed)
        for name, parameter in chunk.named_parameters():
            parameter.requires_grad_(record.trainable.get(name, parameter.requires_grad))
        for name, module in chunk.named_modules():
            module.training = record.train_mode.get(name, module.training)
    for wrapper, chunk in _wrappers_of(model):
        wrapper.training = chunk.training


def kept_trainable(chunk: nn.Module) -> frozenset[str]:
    """Return the names of the base's parameters that `freeze_model` of a subclass left trainable.

    Args:
        chunk: a chunk without its wrappers; one without adapters has none.
    """
    record: _BeforeSurgery | None = chunk.__dict__.get(_BEFORE_SURGERY)
    return frozenset() if record is None else record.kept_trainable


@contextmanager
def disabled(model: Model) -> Iterator[None]:
    """Switch all adapters off inside a `with` block, and afterwards on or off as they were.

    Raises:
        MergeError: the adapters are merged into the base weights.
    """
    modules = [module for chunk in chunks_of(model) for _, module in adapted_modules(chunk)]
    enabled = [module.adapter_enabled for module in modules]
    set_enabled(model, enabled=False)
    try:
        yield
    finally:
        for module, was_enabled in zip(modules, enabled, strict=True):
            module.adapter_enabled = was_enabled


def set_enabled(model: Model, *, enabled: bool) -> None:
    """Switch all adapters of `model` on or off.

    Raises:
        MergeError: the adapters are merged into the base weights.
    """
    for chunk in chunks_of(model):
        for _, module in adapted_modules(chunk):
            module.set_enabled(enabled=enabled)


def merge_and_unload(model: Model) -> None:
    """Fold the adapters into the base weights for good and remove them.

    The result is a plain base model with the weights `W + (alpha / dim) B A`. All ranks must call
    this.

    Args:
        model: one rank's model, or the list of its virtual pipeline chunks.

    Raises:
        MergeError: as `clora.merge_adapters`; the model is as it was.
    """
    merge_adapters(model, keep_base=False)
    for chunk in chunks_of(model):
        for _, module in adapted_modules(chunk):
            # A module without this attribute is not merged, so `revert` leaves the sum in place.
            del module.base_weights
    revert(model)


def _restore(module: Adapted) -> None:
    foreign: Any = module
    before = module.__dict__["attributes_before"]
    del module._modules["adapter"]  # noqa: SLF001
    foreign.__class__ = module.base_class
    for name in _OWN_ATTRIBUTES:
        module.__dict__.pop(name, None)
    for name, value in before.items():
        setattr(module, name, value)


def _refuse_adapted(chunks: list[nn.Module]) -> None:
    adapted = [name for chunk in chunks for name, _ in adapted_modules(chunk)]
    if adapted:
        raise AlreadyAdaptedError(
            f"The model has {len(adapted)} adapted modules already, the first is {adapted[0]}: adapters do not nest, "
            "and a second surgery would freeze the first one's. Undo it with clora.revert(model), or keep it and do "
            "not apply again."
        )


def _refuse_data_parallel(model: Model) -> None:
    """Raise when `model` is inside a data-parallel wrapper.

    Such a wrapper reduces the gradients of the parameters that were trainable when it was made, and
    of no others.
    """
    for chunk in model if isinstance(model, Sequence) else [model]:
        wrapper = linears.data_parallel_wrapper(chunk)
        if wrapper is not None:
            raise SurgeryError(
                f"The model is inside {type(wrapper).__name__} already, whose gradient buffers were made for the "
                "base's parameters: new adapters would get no gradient there and stay different on every rank. Apply "
                "LoRA to the model first and wrap it afterwards (training=False needs no gradients and may come later)."
            )


def _refuse_clipping(chunks: list[nn.Module]) -> None:
    """Raise when the optimizer step scales frozen weights of the attention in place."""
    if any(linears.clips_queries_and_keys(chunk) for chunk in chunks):
        raise SurgeryError(
            "The model is built with qk_clip=True: where an attention logit grows too large, megatron-core scales the "
            "frozen weights of query and key in place, and no checkpoint of adapters holds that. Build it with "
            "qk_clip=False; log_max_attention_logit=True still shows the logits."
        )


def _wrappers_of(model: Model) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield every wrapper around a chunk of `model`, and the chunk."""
    for outer in model if isinstance(model, Sequence) else [model]:
        inner = linears.unwrap(outer)
        yield from ((module, inner) for module in linears.wrappers_around(outer))


def _report_unmatched(plan: Plan, chunks: list[nn.Module]) -> None:
    """Warn of targets that match nothing in the whole model, or raise when all of them do.

    A pipeline stage cannot know: what it lacks may be on another one.
    """
    if linears.num_pipeline_stages(chunks[0]) > 1 or not plan.unmatched_targets:
        return
    hints = "; ".join(_unmatched_hint(target, plan) for target in plan.unmatched_targets)
    if not plan.placements:
        raise UnmatchedTargetError(f"No target matches anything in this model, so nothing would be trained: {hints}.")
    _log.warning("Targets that match nothing in this model: %s.", hints)


def _unmatched_hint(target: str, plan: Plan) -> str:
    linears_here = {at.module for at in plan.placements} | {skip.module for skip in plan.skipped if skip.linears}
    names = {
        path.rpartition(".")[2] for linear in linears_here for path in canonical_names(linear).values() or (linear,)
    }
    near = nearest(target, names)
    return f"'{target}'" + (f" (the model has {', '.join(near)})" if near else "")


def _site(chunks: list[nn.Module], placements: list[Placement]) -> _Site:
    """Look up the module of `placements` and check that it is the one that was planned."""
    first = placements[0]
    try:
        module = chunks[first.chunk].get_submodule(first.module)
    except (IndexError, AttributeError):
        raise SurgeryError(
            f"The plan has a placement at {first.at} (chunk {first.chunk}), and the model has no such module: the plan "
            "is of another model, layout or rank. Plan this model: lora.plan(model)."
        ) from None
    facts = linears.describe(module, first.module)
    if first.wrapper not in WRAPPER_CLASSES or first.adapter_class not in ADAPTER_CLASSES:
        raise SurgeryError(
            f"The plan wants a {first.wrapper} with a {first.adapter_class} at {first.at}, and this clora knows no "
            "such class: the plan was made by another version. Plan this model: lora.plan(model)."
        )
    if facts is None or type(module).__name__ != first.base_class:
        raise SurgeryError(
            f"The plan has a {first.base_class} at {first.module}, and the model has a {type(module).__name__}. "
            "Plan this model: lora.plan(model)."
        )
    parent = chunks[first.chunk].get_submodule(first.module.rpartition(".")[0])
    option = linears.bypassed_by(parent)
    if option is not None:
        raise SurgeryError(
            f"{first.module} is in a {type(parent).__name__}, which reads the weights of its linears and never calls "
            f"them: an adapter there would be ignored. Build the model with {option}=False."
        )
    if linears.absorbs_its_up_projection(parent) and first.module.endswith("linear_kv_up_proj"):
        raise SurgeryError(
            f"{first.module} is in a {type(parent).__name__} with cache_mla_latents=True: in inference megatron-core "
            "takes its weight over and deletes it, and the adapter with it. Build the model with "
            "cache_mla_latents=False, or leave linear_kv_up_proj out of target_modules."
        )
    wiring = linears.wiring(module, facts)
    for placement in placements:
        _check_shapes(placement, facts)
    return _Site(module, facts, wiring, tuple(placements))


def _check_shapes(placement: Placement, facts: LinearFacts) -> None:
    """Raise when the shapes in `placement` do not fit the module that `facts` describes."""
    sizes = {facts.axis: facts.axis_size, "ep": facts.ep, None: 1}
    out = facts.fused.out_features_by_part[placement.part] if facts.fused and placement.part else facts.out_features
    for factor, shape, whole, axes, features in (
        ("A", placement.a_shape, placement.a_global_shape, placement.a_axes, (placement.dim, facts.in_features)),
        ("B", placement.b_shape, placement.b_global_shape, placement.b_axes, (out, placement.dim)),
    ):
        here = tuple(dim // sizes.get(axis, 1) for dim, axis in zip(whole, axes, strict=True))
        if whole[-2:] != features or shape != here:
            raise SurgeryError(
                f"{placement.at}: the plan's {factor} is {list(shape)} of {list(whole)}, and beside this module it "
                f"would be {list(here)} of {list(features)}: the plan is of another model, layout or rank. "
                "Plan this model: lora.plan(model)."
            )


def _new_adapter(placement: Placement, site: _Site, rows: RankRows | None, lora: AdapterOptions) -> Adapter:
    return ADAPTER_CLASSES[placement.adapter_class](
        placement,
        site.wiring,
        dropout=Dropout(lora.dropout, lora.dropout_position),
        a_init_method=lora.lora_A_init_method,
        b_init_method=lora.lora_B_init_method,
        rows_cross_ranks=rows is not None and not rows.whole_blocks,
        sections=() if placement.part else site.facts.sections,
    )


def _state_of(chunk: nn.Module) -> _BeforeSurgery:
    return _BeforeSurgery(
        trainable={name: parameter.requires_grad for name, parameter in chunk.named_parameters()},
        train_mode={name: module.training for name, module in chunk.named_modules()},
    )


def _prepare_backward(chunk: nn.Module, adapted_paths: list[str], *, training: bool) -> None:
    """Let the backward of `chunk` train its adapters in recomputed pieces, and pass over its frozen
    base where gradients are delayed.
    """
    record: _BeforeSurgery = chunk.__dict__[_BEFORE_SURGERY]
    record.delayed += skip_missing_gradients(chunk, (module for _, module in adapted_modules(chunk)))
    if not training:
        return
    record.hooks += enable_input_gradients(chunk, adapted_paths)
    record.hooks += return_views_of_biases(chunk)
    kept = [name for name, parameter in chunk.named_parameters() if parameter.requires_grad and ".adapter." not in name]
    record.kept_trainable = frozenset(kept)
    if kept:
        _log.warning(
            "%d parameters of the base stay trainable, as freeze_model left them (%s). Checkpoints and exports of the "
            "adapters alone do not hold them.",
            len(kept),
            ", ".join(kept[:3]) + (", ..." if len(kept) > 3 else ""),
        )


def _check_each_placement_once(plan: Plan, chunks: list[nn.Module]) -> None:
    """Raise unless every placement is in the model exactly once, and nothing else is."""
    found = Counter(
        (number, placement.at)
        for number, chunk in enumerate(chunks)
        for _, module in adapted_modules(chunk)
        for placement in module.placements
    )
    planned = Counter((placement.chunk, placement.at) for placement in plan.placements)
    if found != planned or any(count != 1 for count in planned.values()):
        wrong = sorted((planned - found) | (found - planned) | Counter({at: n for at, n in planned.items() if n != 1}))
        raise SurgeryError(
            f"The plan has {sum(planned.values())} placements and the model {sum(found.values())} adapters after "
            f"surgery; it must have each of the placements exactly once. Wrong: {wrong[:5]}."
        )
