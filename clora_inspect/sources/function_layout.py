"""Check that a user's function has built its model for the job's layout.

Process groups alone split the weights over tp and ep. How the layers are split over a pipeline is
decided by the model's own config and by the arguments that the function passes on, so that a
function that does not know the layout builds the whole model on every stage.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from clora import linears
from clora.errors import LayoutError
from clora_inspect.job.layer_ranges import fold
from clora_inspect.sources.layout_fields import LAYOUT_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clora_inspect.job.layout import Layout

_ONLY_WITH_EXPERTS = frozenset({"expert_model_parallel_size", "expert_tensor_parallel_size"})

_HOW = (
    "A function gets the job's layout by name, `def build(layout, pre_process, post_process, vp_stage)`: set the "
    "fields of its config from it, and hand the others to the model. docs/your-model.md has a file to begin from."
)


@dataclass(frozen=True, slots=True)
class StageContent:
    """Layers and ends of one pipeline stage, which tell whether the stages make one model."""

    stacks: dict[str, Counter[int]] = field(default_factory=dict)
    """Path of a list of layers -> how often each layer is in it, numbered from 0 in the whole
    model.
    """
    sizes: dict[str, int] = field(default_factory=dict)
    """Path of such a list -> layers of the whole model, where its config says it."""
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Name and shape of each parameter."""


class _End(NamedTuple):
    argument: str
    child: str
    what: str
    stage: str


_ENDS = (
    _End("pre_process", "embedding", "the embedding", "first"),
    _End("post_process", "output_layer", "the output layer", "last"),
)


def check_chunk(name: str, model: nn.Module, layout: Layout, *, pre_process: bool, post_process: bool) -> None:
    """Refuse a chunk whose config has other axes than the job, or that has the wrong ends.

    Raises:
        LayoutError: with the field, the two values and what to write.
    """
    for path, part in _language_models(model):
        where = f" of {path}" if path else ""
        _check_config(f"the config{where}", name, getattr(part, "config", None), layout)
        if not _has_ends(part):
            continue
        for end, wanted in zip(_ENDS, (pre_process, post_process), strict=True):
            built = getattr(part, end.argument)
            if built != wanted:
                raise LayoutError(
                    f"{name} ignores {end.argument}: {type(part).__name__}{where} is built with "
                    f"{end.argument} = {built} on a stage that is {'' if wanted else 'not '}the {end.stage} one, so "
                    f"that {end.what} is on {'no stage' if wanted else 'several stages'}.\n{_HOW}"
                )


def _language_models(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the model, and each model below it with a decoder and two ends. A vision tower has no
    ends: it is on one stage whatever the layout is.
    """
    for path, part in model.named_modules():
        if not path or _has_ends(part):
            yield path, part


def _has_ends(part: nn.Module) -> bool:
    ends = vars(part).get("pre_process"), vars(part).get("post_process")
    children = dict(part.named_children())
    return all(isinstance(end, bool) for end in ends) and "decoder" in children and "encoder" not in children


def _check_config(what: str, name: str, config: object, layout: Layout) -> None:
    has_experts = bool(getattr(config, "num_moe_experts", None))
    if layout.ep > 1 and not has_experts and getattr(config, "expert_model_parallel_size", None) is not None:
        raise LayoutError(f"ep = {layout.ep} spreads experts, and {name} has none. Leave out --ep.")
    for name_of_field, axis in LAYOUT_FIELDS.items():
        built, wanted = getattr(config, name_of_field, None), axis.value(layout)
        if name_of_field in _ONLY_WITH_EXPERTS and not has_experts:
            continue
        # Sequence parallelism follows tp unless the user says it. Where they do not, the model's
        # own counts, and the plan records it.
        if name_of_field == "sequence_parallel" and layout.sp is None:
            continue
        if name_of_field == "virtual_pipeline_model_parallel_size":
            built, wanted = built or 1, wanted or 1
        if built is not None and built != wanted:
            raise LayoutError(
                f"{name} ignores the layout: {what} has {name_of_field} = {built}, and the job has {axis.option} "
                f"{wanted}.\n{_HOW}"
            )


def content_of(chunks: Sequence[nn.Module]) -> StageContent:
    """Return what the chunks of one rank hold."""
    content = StageContent(
        parameters=tuple(
            (f"{number}.{name}", tuple(parameter.shape))
            for number, chunk in enumerate(chunks)
            for name, parameter in chunk.named_parameters()
        )
    )
    for chunk in chunks:
        modules = dict(chunk.named_modules())
        for path, module in modules.items():
            if not isinstance(module, nn.ModuleList):
                continue
            parent = modules.get(path.rpartition(".")[0], chunk)
            if linears.is_block(parent):
                content.sizes[path] = linears.num_layers(parent)
            numbers = [number for layer in module if (number := linears.layer_number(layer)) is not None]
            if numbers:
                content.stacks.setdefault(path, Counter()).update(number - 1 for number in numbers)
    return content


def check_stages(name: str, stages: Sequence[StageContent]) -> None:
    """Refuse stages that hold a layer twice, or leave one out.

    Raises:
        LayoutError: with the layers of each stage, and what to write.
    """
    if len(stages) == 1 and not stages[0].sizes:
        return
    for path in dict.fromkeys(path for stage in stages for path in (*stage.stacks, *stage.sizes)):
        held = [stage.stacks.get(path, Counter()) for stage in stages]
        size = max((stage.sizes.get(path, 0) for stage in stages), default=0)
        counts = sum(held, Counter[int]())
        twice = sorted(number for number, count in counts.items() if count > 1)
        missing = sorted(set(range(size)) - counts.keys())
        if not twice and not missing:
            continue
        fault = f"layers {fold(twice)} more than once" if twice else f"layers {fold(missing)} on no stage"
        by_stage = "; ".join(f"stage {number}: {fold(set(one)) or 'none'}" for number, one in enumerate(held))
        raise LayoutError(f"{name} builds {fault} in {path} ({by_stage}), counted from 0.\n{_HOW}")
    _check_unnumbered(name, stages)


def _check_unnumbered(name: str, stages: Sequence[StageContent]) -> None:
    first = stages[0].parameters
    if len(stages) == 1 or not first or any(stage.stacks for stage in stages):
        return
    if all(stage.parameters == first for stage in stages):
        raise LayoutError(
            f"{name} builds the same {len(first)} parameters on each of the {len(stages)} stages, and no layer has a "
            f"layer_number: it seems to be the whole model each time.\n{_HOW}"
        )
