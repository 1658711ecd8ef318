"""Read what one rank of a run has: its live modules, and not what a config says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from torch import distributed

from clora import linears
from clora.all_ranks import own_rank
from clora.canonical_lora import CanonicalLoRA
from clora.layer_pattern import without_release
from clora.planner import plan_model
from clora.wrappers import adapted_modules, base_class_of
from clora_inspect.job.layout import Layout
from clora_inspect.job.module_path import global_path
from clora_inspect.job.towers import Towers
from clora_inspect.job.versions import versions
from clora_inspect.launch.in_effect import base_parameters, dtype_name, layer_of_module, not_in_effect
from clora_inspect.snapshot.record import PlacementLine, line_of

if TYPE_CHECKING:
    from torch import nn

    from clora.adapters import Adapter
    from clora.linears import Model
    from clora.plan import Placement, Plan, Tower
    from clora_inspect.launch.difference import Difference

NOTHING = "no_module_has_this_name"
"""The target of a plan that adapts nothing: an empty list would mean every linear."""


class LiveModule(msgspec.Struct, frozen=True, kw_only=True):
    """A module of the base, in the words of a plan."""

    class_name: str
    params: int
    """Elements of its own parameters on this rank."""
    layer: int | None
    """Global number of its layer, from 0."""


class LiveRank(msgspec.Struct, frozen=True, kw_only=True):
    """The content of one rank. Paths have the layer numbers of the whole model."""

    layout: Layout
    stage: int
    """Number of its pipeline stage, from 0."""
    is_first_of_stage: bool
    """True on one rank of each pipeline stage, whose numbers stand for the stage in a sum."""
    class_name: str
    layers: dict[str, tuple[int, ...]]
    """Path of a tower -> global numbers of its layers on this rank, in order."""
    layer_letters: str | None
    """Letters of the layers of a HybridModel that was made of a GPTModel's; None for any other."""
    towers: tuple[Tower, ...]
    """The towers that its layers belong to."""
    modules: dict[str, LiveModule]
    """Path -> module of the base. Sequential experts have their number on this rank, and modules
    that a release of megatron-core has renamed have their oldest name.
    """
    model_params: int
    """Number of parameters of the whole model that this rank has a share of. The sum over one rank
    of each stage is the model's size.
    """
    lines: tuple[PlacementLine, ...]
    """Its adapters, each as in a snapshot."""
    settings: dict[str, dict[int | float | str | bool, list[str]]]
    """Setting of LoRA -> value -> adapters that have it."""
    config: dict[str, Any]
    """The fields of the model's config that are not the default, and the dtypes of the weights."""
    versions: dict[str, str]
    not_in_effect: tuple[Difference, ...]
    base: Plan | None
    """Its base modules, adapted or not: a plan that adapts nothing. None on another rank."""

    def decoder_layers(self, towers: Towers) -> tuple[int, ...]:
        """Return the numbers of the decoder's layers on this rank, in order.

        Args:
            towers: those of the whole model. A stage that holds nothing but a vision tower cannot
                tell that another one has a language model.
        """
        held = (layers for path, layers in self.layers.items() if towers.is_main(towers.at(path)))
        return tuple(sorted({layer for layers in held for layer in layers}))


def read_rank(model: Model) -> LiveRank:
    """Read one rank.

    Args:
        model: one rank's model, or the list of its virtual pipeline chunks, inside `Float16Module`
            and data-parallel wrappers or not.

    Raises:
        CloraError: a linear has a layout that is not known.
    """
    from clora_inspect.sources.config_facts import config_facts

    chunks = linears.chunks_of(model)
    plan = plan_model(chunks, CanonicalLoRA(target_modules=[NOTHING]))
    adapters = list(_adapters(chunks, plan))
    layout = _layout(chunks)
    stage, is_first = _stage(chunks)
    language = linears.language_model(chunks[0])
    return LiveRank(
        layout=layout,
        stage=stage,
        is_first_of_stage=is_first,
        class_name=base_class_of(chunks[0]).__name__,
        layers=_layers(plan),
        layer_letters=_letters(language),
        towers=plan.towers,
        modules=_modules(plan),
        model_params=plan.model_params,
        lines=tuple(line_of(placement) for placement, _ in adapters),
        settings=_settings(adapters),
        config={**config_facts(language, layout), "weights": _weight_dtypes(chunks)},
        versions=versions(device=_device_kind(chunks)),
        not_in_effect=tuple(not_in_effect(chunks, plan)),
        base=plan,
    )


def _adapters(chunks: Sequence[nn.Module], plan: Plan) -> Iterator[tuple[Placement, Adapter]]:
    """Yield each live adapter with its placement, the shapes and numbers those of its tensors."""
    layers = layer_of_module(plan)
    for number, chunk in enumerate(chunks):
        for path, module in adapted_modules(chunk):
            for placement in module.placements:
                adapter = module.adapters[placement.part]
                yield _as_built(placement, adapter, layers.get((number, path), placement.global_layer)), adapter


def _as_built(placement: Placement, adapter: Adapter, layer: int | None) -> Placement:
    """Return `placement` with the layer, the shapes and the alpha that `adapter` really has."""
    a, b = adapter.linear_in, adapter.linear_out
    return msgspec.structs.replace(
        placement,
        global_layer=layer,
        dim=adapter.dim,
        alpha=adapter.alpha,
        a_shape=tuple(a.weight.shape),
        b_shape=tuple(b.weight.shape),
        a_global_shape=a.global_shape,
        b_global_shape=b.global_shape,
        a_axes=a.axes,
        b_axes=b.axes,
    )


def _modules(plan: Plan) -> dict[str, LiveModule]:
    return {
        without_release(global_path(skip.module, skip.global_layer)): LiveModule(
            class_name=skip.class_name, params=skip.params, layer=skip.global_layer
        )
        for skip in plan.skipped
        if skip.part is None
    }


def _layers(plan: Plan) -> dict[str, tuple[int, ...]]:
    towers = Towers(plan.towers)
    found: dict[str, set[int]] = {}
    for skip in plan.skipped:
        if skip.global_layer is not None:
            found.setdefault(towers.of(skip.module).path, set()).add(skip.global_layer)
    return {path: tuple(sorted(layers)) for path, layers in found.items()}


def _letters(language: nn.Module) -> str | None:
    pattern = linears.layer_pattern(language)
    return pattern.letters if pattern and pattern.is_of_pairs else None


def _layout(chunks: Sequence[nn.Module]) -> Layout:
    config: Any = linears.language_model(chunks[0]).config
    sizes = {
        "tp": config.tensor_model_parallel_size,
        "pp": config.pipeline_model_parallel_size,
        "cp": config.context_parallel_size,
        "ep": config.expert_model_parallel_size,
    }
    has_experts = bool(getattr(config, "num_moe_experts", None))
    etp = getattr(config, "expert_tensor_parallel_size", None)
    return Layout(
        **sizes,
        vpp=len(chunks) if config.virtual_pipeline_model_parallel_size else 1,
        etp=(etp or sizes["tp"]) if has_experts else 1,
        sp=bool(config.sequence_parallel),
    )


def _stage(chunks: Sequence[nn.Module]) -> tuple[int, bool]:
    """Return the number of the rank's pipeline stage, and whether it is the one that stands for it.

    The ranks that share the layers with rank 0 stand for their stages.
    """
    group = linears.pipeline_group(chunks[0])
    # A model keeps its groups after they were destroyed.
    if group is None or not distributed.is_initialized():
        return 0, own_rank() == 0
    return group.rank(), distributed.get_process_group_ranks(group)[0] == 0


def _settings(
    adapters: Sequence[tuple[Placement, Adapter]],
) -> dict[str, dict[int | float | str | bool, list[str]]]:
    found: dict[str, dict[int | float | str | bool, list[str]]] = {}
    for placement, adapter in adapters:
        values: dict[str, int | float | str | bool] = {
            "alpha": float(adapter.alpha),
            "dropout": float(adapter.dropout.probability),
            "dropout_position": adapter.dropout.position,
            "lora_A_init_method": adapter.linear_in.init_method,
            "lora_B_init_method": adapter.linear_out.init_method,
        }
        for name, value in values.items():
            found.setdefault(name, {}).setdefault(value, []).append(_at(placement))
    return found


def _at(placement: Placement) -> str:
    path = global_path(placement.module, placement.global_layer)
    return f"{path}[{placement.part}]" if placement.part else path


def _weight_dtypes(chunks: Sequence[nn.Module]) -> list[str]:
    """Return the dtypes of the base's parameters, sorted."""
    return sorted({dtype_name(parameter) for chunk in chunks for _, _, parameter in base_parameters(chunk)})


def _device_kind(chunks: Sequence[nn.Module]) -> str:
    parameter = next((parameter for chunk in chunks for parameter in chunk.parameters()), None)
    return "meta" if parameter is None else parameter.device.type
