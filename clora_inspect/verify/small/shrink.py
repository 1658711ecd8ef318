"""The job's own model made small, with what LoRA meets in it kept. Pure numbers.

Kept exactly: the kinds of layers and their order, heads to key-value groups, gates, biases, norms,
experts per token, shared experts, prediction layers, rank and alpha, an uneven pipeline, key-value
groups against tp. Made small: widths, vocabulary, the number of layers of a kind, of groups, of
experts and of states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import LayoutError
from clora.fused import FUSED
from clora_inspect.sources.definition import PER_LAYER, ModelDefinition
from clora_inspect.sources.pipeline_split import SPLIT_FIELDS, fields_of
from clora_inspect.verify.model.randomness import switched_off
from clora_inspect.verify.small.layer_kinds import kinds_of, shortest, stage_layers

if TYPE_CHECKING:
    from clora.plan import Placement
    from clora_inspect.job.layout import Layout
    from clora_inspect.job.plan import JobPlan

HIDDEN, HEAD, WIDTH, EXPERT_WIDTH, VOCABULARY, POSITIONS, WINDOW = 64, 16, 96, 32, 128, 64, 5
"""Sizes of the small model. Each divides by every tp that can be run here (8), a head by every
rotary fraction.
"""

_SMALL = {
    "hidden_size": HIDDEN,
    "kv_channels": HEAD,
    "ffn_hidden_size": WIDTH,
    "moe_ffn_hidden_size": EXPERT_WIDTH,
    "vocab_size": VOCABULARY,
    "max_sequence_length": POSITIONS,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_head_dim": HEAD,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": HEAD,
    "linear_key_head_dim": HEAD,
    "linear_value_head_dim": HEAD,
    "mamba_state_dim": 16,
    "mamba_head_dim": 16,
}
"""Field -> its small size, where it has one that is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """A small model that stands for the job's."""

    definition: ModelDefinition
    layers: tuple[int, ...]
    """For every layer of the small model, the number of the job's layer that it stands for."""
    targets: tuple[tuple[str, ...], ...] | None = None
    """Explicit targets of every virtual stage, where the job's name layers by number; None: the
    job's own are used.
    """
    whole_targets: tuple[str, ...] | None = None
    """The same of all layers on one stage."""
    said: tuple[str, ...] = ()
    """What was made smaller, one sentence each."""
    missing: tuple[str, ...] = field(default=())
    """What of the job the small model cannot show on these ranks."""


def shrink(definition: ModelDefinition, plan: JobPlan, job: Layout, run: Layout, *, dtype: str = "float32") -> Shrunk:
    """The small model.

    Args:
        definition: the job's model.
        plan: of the job on its own layout.
        job: that layout.
        run: the layout on which the small model will run; each axis is at most as wide as the
            job's.
        dtype: of the small model's parameters.

    Raises:
        LayoutError: a property of the job that would change with the size.
    """
    if definition.is_user_function:
        raise LayoutError(
            f"{definition.name} is a function that makes its own config, which cannot be made smaller from outside. Let it return a small "
            "model (fewer layers, narrower) and verify that with --size full."
        )
    fields: dict[str, Any] = {**definition.config, **definition.model}
    said: list[str] = []
    missing: list[str] = []
    small = _widths(fields, job, run, missing)
    small |= _experts(fields, run, said)
    small |= switched_off(fields, said)
    if fields.get("window_size") is not None:
        small["window_size"] = [min(side, WINDOW) if side > 0 else side for side in fields["window_size"]]
    said[:0] = _widths_said(fields, small)
    layers, counts, per_layer = _layers(fields, plan, run, definition)
    small |= per_layer | {"num_layers": len(layers), "params_dtype": dtype}
    if len(layers) < fields["num_layers"]:
        said.insert(
            0,
            f"{fields['num_layers']} layers to {len(layers)}, which stand for layers {', '.join(map(str, layers))}: every kind and every change.",
        )
    config = {name: value for name, value in definition.config.items() if name not in SPLIT_FIELDS}
    model = dict(definition.model)
    for name, value in small.items():
        (model if name in definition.model else config)[name] = value
    if len(set(counts)) > 1:
        config |= fields_of(counts, run, int(fields.get("mtp_num_layers") or 0))
        said.append(f"The pipeline stays uneven: {', '.join(map(str, counts))} layers a stage.")
    shrunk = msgspec.structs.replace(definition, config=config, model=model, pipeline_splits={})
    return Shrunk(
        definition=shrunk,
        layers=tuple(layers),
        targets=explicit_targets(plan, layers, counts),
        whole_targets=whole_targets(plan, layers),
        said=tuple(said),
        missing=tuple(missing),
    )


def _widths(fields: Mapping[str, Any], job: Layout, run: Layout, missing: list[str]) -> dict[str, Any]:
    small = {name: min(size, fields[name]) for name, size in _SMALL.items() if isinstance(fields.get(name), int)}
    tp = run.tp
    heads, groups = fields.get("num_attention_heads"), fields.get("num_query_groups")
    if heads:
        groups = groups or heads
        small["num_query_groups"] = kept = _groups(groups, job.tp, tp)
        small["num_attention_heads"] = kept * (heads // groups)
        if job.tp > groups and kept >= tp:
            missing.append(
                f"{groups} key-value groups on tp{job.tp}: cutting a group over ranks needs more ranks than groups; "
                f"run --procs {2 * max(tp, 1)} with --tp above the groups."
            )
    if fields.get("linear_num_key_heads"):
        keys = max(2, tp)
        small["linear_num_key_heads"] = keys
        small["linear_num_value_heads"] = keys * (fields["linear_num_value_heads"] // fields["linear_num_key_heads"])
    if fields.get("mamba_num_groups"):
        states = max(2, tp)
        per_group = (fields.get("mamba_num_heads") or fields["hidden_size"] * 2 // fields["mamba_head_dim"]) // fields[
            "mamba_num_groups"
        ]
        small["mamba_num_groups"] = states
        small["mamba_num_heads"] = states * min(per_group, 4)
    if (shared := fields.get("moe_shared_expert_intermediate_size")) is not None:
        times = max(1, round(shared / (fields.get("moe_ffn_hidden_size") or shared)))
        small["moe_shared_expert_intermediate_size"] = EXPERT_WIDTH * min(times, 4)
    return small


def _groups(groups: int, job_tp: int, tp: int) -> int:
    """Key-value groups of the small model: as many a rank as show their order, or as few against tp
    as the job has.
    """
    if job_tp > groups and tp > 1:
        return max(1, groups * tp // job_tp)
    return min(groups, 2 * tp if groups >= 2 * job_tp or tp == 1 else tp)


def _experts(fields: Mapping[str, Any], run: Layout, said: list[str]) -> dict[str, Any]:
    experts = fields.get("num_moe_experts")
    if not experts:
        return {}
    topk, groups = fields["moe_router_topk"], fields.get("moe_router_num_groups") or 1
    # A group's score is that of its two best experts.
    step = lcm(run.ep, 2 * groups if groups > 1 else 1)
    fewest = max(2 * topk, 2 * run.ep)
    small = min(experts, -(-fewest // step) * step)
    # The groups that a token may go to must hold as many experts as it chooses.
    allowed = fields.get("moe_router_group_topk") or groups
    while small < experts and small // groups * allowed < topk:
        small += step
    if small < experts:
        said.append(f"{experts} experts a layer to {small}; {topk} per token, as in the job.")
    return {"num_moe_experts": small}


def _widths_said(fields: Mapping[str, Any], small: Mapping[str, Any]) -> list[str]:
    changed = [
        f"{name} {fields[name]} to {size}"
        for name, size in small.items()
        if isinstance(size, int) and name in fields and fields[name] != size and name != "num_moe_experts"
    ]
    return [f"Sizes: {', '.join(changed)}."] if changed else []


def _layers(
    fields: Mapping[str, Any], plan: JobPlan, run: Layout, definition: ModelDefinition
) -> tuple[list[int], list[int], dict[str, Any]]:
    """The job's layers that are kept, how many each virtual stage of the run has, and the lists
    with an entry for each.
    """
    num_layers = fields["num_layers"]
    lists = {name: expanded(name, fields[name], num_layers) for name in PER_LAYER if fields.get(name) is not None}
    kinds = kinds_of(plan, list(lists.values()))
    stages = _chosen(stage_layers(plan), run.pp * run.vpp)
    kept = [shortest(stage, kinds) for stage in stages]
    counts = [len(stage) for stage in stages]
    if len(set(counts)) > 1 and len(kept) > 1 and len({len(stage) for stage in kept}) == 1:
        # The job's stages are uneven, and so must be the small ones: the longest gets one layer
        # more.
        longest = counts.index(max(counts))
        kept[longest] = [*kept[longest], *[layer for layer in stages[longest] if layer not in kept[longest]][:1]]
    layers = [layer for stage in kept for layer in stage]
    per_layer: dict[str, Any] = {}
    for name, values in lists.items():
        chosen = [values[layer] for layer in layers]
        per_layer[name] = "".join(chosen) if isinstance(fields[name], str) else chosen
    if "moe_layer_freq" in per_layer and definition.kind.has_layer_pattern:
        per_layer.pop("moe_layer_freq")
    return layers, [len(stage) for stage in kept], per_layer


def expanded(name: str, value: Any, layers: int) -> Sequence[Any]:
    """One entry for every layer of a field that may be an interval."""
    if not isinstance(value, int):
        return value  # type: ignore[no-any-return]
    if name == "moe_layer_freq":
        return [int(layer % value == 0) for layer in range(layers)]
    return [int((layer + 1) % value != 0) for layer in range(layers)]


def _chosen(stages: list[list[int]], count: int) -> list[list[int]]:
    """`count` of the job's virtual stages, the first and the last among them; all of them joined
    where there is one.
    """
    if count == 1:
        return [[layer for stage in stages for layer in stage]]
    if count >= len(stages):
        return stages
    return [stages[round(number * (len(stages) - 1) / (count - 1))] for number in range(count)]


def explicit_targets(plan: JobPlan, layers: Sequence[int], counts: Sequence[int]) -> tuple[tuple[str, ...], ...] | None:
    """Where the job's targets name layers by number, each small layer gets by its path what the
    layer has that it stands for.
    """
    placements = [placement for ranks in plan.rank_classes for placement in ranks.placements]
    if not any(placement.by_number for placement in placements):
        return None
    by_layer: dict[int | None, list[Placement]] = {}
    for placement in placements:
        outside = placement.global_layer is None or placement.module.startswith("mtp.")
        by_layer.setdefault(None if outside else placement.global_layer, []).append(placement)
    everywhere = [target for placement in by_layer.get(None, []) for target in _names(placement, None)]
    stages, first = [], 0
    for count in counts:
        own = layers[first : first + count]
        first += count
        named = [
            target
            for number, layer in enumerate(own)
            for placement in by_layer.get(layer, [])
            for target in _names(placement, number)
        ]
        stages.append(tuple(dict.fromkeys([*named, *everywhere])))
    return tuple(stages)


def whole_targets(plan: JobPlan, layers: Sequence[int]) -> tuple[str, ...] | None:
    """The explicit targets of all layers as one stage has them, which numbers its layers otherwise
    than a pipeline's stages do.
    """
    targets = explicit_targets(plan, layers, [len(layers)])
    return None if targets is None else targets[0]


def _names(placement: Placement, number: int | None) -> list[str]:
    """Full-path targets of one placement, with another number for its layer."""
    before, dot, last = placement.module.rpartition(".")
    if number is not None:
        head, _, rest = before.partition("layers.")
        before = f"{head}layers.{number}.{rest.partition('.')[2]}".rstrip(".")
    if last not in FUSED:
        return [f"{before}{dot}{last}"]
    parts = [placement.part] if placement.part else list(FUSED[last])
    return [f"{before}{dot}{FUSED[last][part]}" for part in parts]


def where_in_job(path: str, layers: Sequence[int]) -> str:
    """A path of the small model, by global layer number, as a path of the job."""
    from clora_inspect.job.module_path import layer_of

    number = layer_of(path)
    if number is None or path.startswith("mtp.") or number >= len(layers):
        return path
    return path.replace(f"layers.{number}", f"layers.{layers[number]}", 1)
