"""Make the job's model small for `--size tiny`, and keep everything that matters to LoRA. Pure
numbers.

Kept: the kinds of layers and their order, the ratio of heads to key-value groups, gates, biases,
norms, experts per token, shared experts, prediction layers, dim and alpha, an uneven pipeline, and
whether there are more tp ranks than key-value groups.

Made small: widths, the vocabulary, and the numbers of layers of a kind, of key-value groups, of
experts and of states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import LayoutError
from clora.fused import FUSED
from clora.plan import is_prediction
from clora_inspect.job.module_path import layer_of
from clora_inspect.sources.definition import PER_LAYER, ModelDefinition
from clora_inspect.sources.pipeline_split import SPLIT_FIELDS, fields_of
from clora_inspect.verify.model.randomness import switched_off
from clora_inspect.verify.small.layer_kinds import built_as, kinds_of, shortest, stage_layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.plan import Placement
    from clora_inspect.job.layout import Layout
    from clora_inspect.job.plan import JobPlan

HEAD = 16
"""Width of a head: divides by every rotary fraction of the built-in architectures."""
EXPERT_WIDTH = 32
"""FFN width of an expert."""
WINDOW = 5
"""Attention window in tokens, shorter than the batch's rows."""

CHOSEN_KEYS = 5
"""Keys that sparse attention chooses, fewer than the batch's rows have tokens."""

# Each size divides by 8, the largest tp that is run here.
_SMALL = {
    "hidden_size": 64,
    "kv_channels": HEAD,
    "ffn_hidden_size": 96,
    "moe_ffn_hidden_size": EXPERT_WIDTH,
    "vocab_size": 128,
    "max_sequence_length": 64,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_head_dim": HEAD,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": HEAD,
    "dsa_indexer_n_heads": 2,
    "dsa_indexer_head_dim": HEAD,
    "dsa_indexer_topk": CHOSEN_KEYS,
    "linear_key_head_dim": HEAD,
    "linear_value_head_dim": HEAD,
    "mamba_state_dim": 16,
    "mamba_head_dim": 16,
}
"""Field -> its small size, for a model in which it is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """A model that stands for the job's."""

    definition: ModelDefinition
    layers: tuple[int, ...]
    """For each layer that this model builds, the number of the job's that it stands for."""
    targets: tuple[tuple[str, ...], ...] | None = None
    """Explicit targets of each virtual stage, where the job's name layers by number; None where the
    job's own are used.
    """
    single_rank_targets: tuple[str, ...] | None = None
    """Explicit targets of the model on one rank, which numbers its layers without stages."""
    changes: tuple[str, ...] = ()
    """A sentence for each thing that was made smaller."""
    missing: tuple[str, ...] = ()
    """A sentence for each property of the job that this model cannot show on these ranks."""


def shrink(definition: ModelDefinition, plan: JobPlan, job: Layout, run: Layout, *, dtype: str = "float32") -> Shrunk:
    """Return the small model.

    Args:
        definition: the job's model.
        plan: plan of the job on its own layout.
        job: that layout.
        run: the layout on which the small model will run; no axis is wider than the job's.
        dtype: dtype of the small model's parameters.

    Raises:
        LayoutError: the model is a user's function, which cannot be made smaller from outside.
    """
    if definition.is_user_function:
        raise LayoutError(
            f"{definition.name} is a function that makes its own config, which cannot be made smaller from outside. "
            "Let it return a small model (fewer layers, narrower) and verify that with --size full."
        )
    fields: dict[str, Any] = {**definition.config, **definition.model}
    widths = _widths(fields) | _attention_heads(fields, job, run) | _other_heads(fields, run)
    experts = _experts(fields, run)
    off, off_changes = switched_off(fields)
    layers, counts, per_layer = _layers(fields, plan, run, definition)
    small = widths | experts | off | per_layer | {"num_layers": len(layers), "params_dtype": dtype}
    blocks = definition.kind.blocks_per_layer
    built, built_counts = built_as(layers, blocks), [blocks * count for count in counts]
    uneven = len(set(counts)) > 1
    small_definition = _with_fields(definition, small)
    if uneven:
        split = fields_of(counts, run, int(fields.get("mtp_num_layers") or 0))
        small_definition = msgspec.structs.replace(small_definition, config=small_definition.config | split)
    return Shrunk(
        definition=small_definition,
        layers=built,
        targets=explicit_targets(plan, built, built_counts),
        single_rank_targets=single_rank_targets(plan, built),
        changes=(
            *_changes(fields, layers, widths, experts),
            *off_changes,
            *([f"The pipeline stays uneven: {', '.join(map(str, counts))} layers a stage."] if uneven else []),
        ),
        missing=tuple(_missing(fields, widths, job, run)),
    )


def _with_fields(definition: ModelDefinition, small: Mapping[str, Any]) -> ModelDefinition:
    # The job's pipeline split counts its own layers and does not fit fewer.
    config = {name: value for name, value in definition.config.items() if name not in SPLIT_FIELDS}
    model = dict(definition.model)
    for name, value in small.items():
        (model if name in definition.model else config)[name] = value
    return msgspec.structs.replace(definition, config=config, model=model, pipeline_splits={})


def _widths(fields: Mapping[str, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {
        name: min(size, fields[name]) for name, size in _SMALL.items() if isinstance(fields.get(name), int)
    }
    if fields.get("window_size") is not None:
        # -1 means no limit on that side, and 0 means no other token: both stay.
        small["window_size"] = [min(side, WINDOW) if side > 0 else side for side in fields["window_size"]]
    return small


def _attention_heads(fields: Mapping[str, Any], job: Layout, run: Layout) -> dict[str, int]:
    """Return the small numbers of attention heads and key-value groups, in the job's ratio."""
    heads = fields.get("num_attention_heads")
    if not heads:
        return {}
    groups = fields.get("num_query_groups") or heads
    kept = _kept_groups(groups, job.tp, run.tp)
    return {"num_query_groups": kept, "num_attention_heads": kept * (heads // groups)}


def _other_heads(fields: Mapping[str, Any], run: Layout) -> dict[str, int]:
    """Return the small numbers of heads of linear attention and state-space mixers, and the width
    of shared experts, each in the job's ratios.
    """
    small = {}
    if fields.get("linear_num_key_heads"):
        keys = max(2, run.tp)
        small["linear_num_key_heads"] = keys
        small["linear_num_value_heads"] = keys * (fields["linear_num_value_heads"] // fields["linear_num_key_heads"])
    if fields.get("mamba_num_groups"):
        groups = max(2, run.tp)
        heads = fields.get("mamba_num_heads") or fields["hidden_size"] * 2 // fields["mamba_head_dim"]
        small["mamba_num_groups"] = groups
        small["mamba_num_heads"] = groups * min(heads // fields["mamba_num_groups"], 4)
    if (shared := fields.get("moe_shared_expert_intermediate_size")) is not None:
        times = max(1, round(shared / (fields.get("moe_ffn_hidden_size") or shared)))
        small["moe_shared_expert_intermediate_size"] = EXPERT_WIDTH * min(times, 4)
    return small


def _kept_groups(groups: int, job_tp: int, tp: int) -> int:
    """Return the small number of key-value groups.

    Two groups on a rank show their order. If the job has fewer groups than tp ranks, the small
    model has fewer, too.
    """
    if job_tp > groups and tp > 1:
        return max(1, groups * tp // job_tp)
    return min(groups, 2 * tp if groups >= 2 * job_tp or tp == 1 else tp)


def _missing(fields: Mapping[str, Any], widths: Mapping[str, Any], job: Layout, run: Layout) -> Iterator[str]:
    """Yield a sentence for what the small model cannot show on these ranks."""
    if not fields.get("num_attention_heads"):
        return
    groups = fields.get("num_query_groups") or fields["num_attention_heads"]
    if job.tp > groups and widths["num_query_groups"] >= run.tp:
        yield (
            f"{groups} key-value groups on tp{job.tp}: cutting a group over ranks needs more ranks than groups; "
            f"run --procs {2 * max(run.tp, 1)} with --tp above the groups."
        )


def _experts(fields: Mapping[str, Any], run: Layout) -> dict[str, int]:
    """Return the small number of experts: at least twice as many as a token chooses, so that the
    router has a choice, and at least two for each ep rank.
    """
    experts = fields.get("num_moe_experts")
    if not experts:
        return {}
    topk, groups = fields["moe_router_topk"], fields.get("moe_router_num_groups") or 1
    # The router scores a group of experts by its two best, so a group has at least two.
    step = lcm(run.ep, 2 * groups if groups > 1 else 1)
    fewest = max(2 * topk, 2 * run.ep)
    small = min(experts, -(-fewest // step) * step)
    # A token may go to a few groups only, and those must hold as many experts as it chooses.
    allowed = fields.get("moe_router_group_topk") or groups
    while small < experts and small // groups * allowed < topk:
        small += step
    return {"num_moe_experts": small}


def _changes(
    fields: Mapping[str, Any], layers: Sequence[int], widths: Mapping[str, Any], experts: Mapping[str, int]
) -> Iterator[str]:
    """Yield a sentence for everything that was made smaller."""
    if len(layers) < fields["num_layers"]:
        yield (
            f"{fields['num_layers']} layers to {len(layers)}, which stand for layers {', '.join(map(str, layers))}: "
            "every kind and every change."
        )
    sizes = [
        f"{name} {fields[name]} to {size}"
        for name, size in widths.items()
        if isinstance(size, int) and name in fields and fields[name] != size
    ]
    if sizes:
        yield f"Sizes: {', '.join(sizes)}."
    for name, count in experts.items():
        if count < fields[name]:
            yield f"{fields[name]} experts a layer to {count}; {fields['moe_router_topk']} per token, as in the job."


def _layers(
    fields: Mapping[str, Any], plan: JobPlan, run: Layout, definition: ModelDefinition
) -> tuple[list[int], list[int], dict[str, Any]]:
    """Choose the job's layers that the small model has.

    Returns:
        Their numbers; how many each virtual stage of the run has; and the per-layer lists for them.
    """
    num_layers = fields["num_layers"]
    lists = {name: expanded(name, fields[name], num_layers) for name in PER_LAYER if fields.get(name) is not None}
    blocks = definition.kind.blocks_per_layer
    kinds = kinds_of(plan, list(lists.values()), blocks)
    stages = _chosen(stage_layers(plan, blocks), run.pp * run.vpp)
    kept = [shortest(stage, kinds) for stage in stages]
    counts = [len(stage) for stage in stages]
    if len(set(counts)) > 1 and len(kept) > 1 and len({len(stage) for stage in kept}) == 1:
        # The job's stages are uneven and the small ones have become even: the longest gets one
        # layer more.
        longest = counts.index(max(counts))
        kept[longest] = [*kept[longest], *[layer for layer in stages[longest] if layer not in kept[longest]][:1]]
    layers = [layer for stage in kept for layer in stage]
    per_layer: dict[str, Any] = {}
    for name, values in lists.items():
        chosen = [values[layer] for layer in layers]
        per_layer[name] = "".join(chosen) if isinstance(fields[name], str) else chosen
    if definition.kind.has_layer_pattern:
        # A hybrid stack's pattern says which layers have experts.
        per_layer.pop("moe_layer_freq", None)
    return layers, [len(stage) for stage in kept], per_layer


def expanded(name: str, value: Any, layers: int) -> Sequence[Any]:
    """Return a per-layer field with one entry for each layer, also where it is an interval.

    megatron-core counts intervals in three ways: `moe_layer_freq = 2` has experts in layers 0, 2,
    4; `no_rope_freq` gives the last layer of each interval a 1, and the other fields give it a 0.
    """
    if not isinstance(value, int):
        return value  # type: ignore[no-any-return]
    if name == "moe_layer_freq":
        return [int(layer % value == 0) for layer in range(layers)]
    if name == "no_rope_freq":
        return [int((layer + 1) % value == 0) for layer in range(layers)]
    return [int((layer + 1) % value != 0) for layer in range(layers)]


def _chosen(stages: list[list[int]], count: int) -> list[list[int]]:
    """Return `count` of the job's virtual stages, with the first and the last; with a count of 1,
    all of them joined.
    """
    if count == 1:
        return [[layer for stage in stages for layer in stage]]
    if count >= len(stages):
        return stages
    return [stages[round(number * (len(stages) - 1) / (count - 1))] for number in range(count)]


def explicit_targets(plan: JobPlan, layers: Sequence[int], counts: Sequence[int]) -> tuple[tuple[str, ...], ...] | None:
    """Return targets by full path for a model of some of the job's layers; None where no target of
    the job names a layer by its number.

    Args:
        plan: plan of the job.
        layers: numbers of the job's layers that the model has.
        counts: number of layers of each virtual stage.

    Returns:
        Targets of each virtual stage. Each layer has those of the job's layer that it stands for.
    """
    placements = [placement for ranks in plan.rank_classes for placement in ranks.placements]
    if not any(placement.by_number for placement in placements):
        return None
    by_layer: dict[int | None, list[Placement]] = {}
    for placement in placements:
        outside = placement.global_layer is None or is_prediction(placement.module)
        by_layer.setdefault(None if outside else placement.global_layer, []).append(placement)
    everywhere = [target for placement in by_layer.get(None, []) for target in _targets_of(placement, None)]
    stages, first = [], 0
    for count in counts:
        # A stage numbers its layers from 0.
        by_number = [
            target
            for number, layer in enumerate(layers[first : first + count])
            for placement in by_layer.get(layer, [])
            for target in _targets_of(placement, number)
        ]
        stages.append(tuple(dict.fromkeys([*by_number, *everywhere])))
        first += count
    return tuple(stages)


def single_rank_targets(plan: JobPlan, layers: Sequence[int]) -> tuple[str, ...] | None:
    """Return the explicit targets of all layers on one stage, which numbers them in another way
    than a pipeline's stages.
    """
    targets = explicit_targets(plan, layers, [len(layers)])
    return None if targets is None else targets[0]


def _targets_of(placement: Placement, number: int | None) -> list[str]:
    """Return the targets of one placement by full path, with another number for its layer."""
    parent, dot, last = placement.module.rpartition(".")
    if number is not None:
        head, _, rest = parent.partition("layers.")
        parent = f"{head}layers.{number}.{rest.partition('.')[2]}".rstrip(".")
    if last not in FUSED:
        return [f"{parent}{dot}{last}"]
    parts = [placement.part] if placement.part else list(FUSED[last])
    return [f"{parent}{dot}{FUSED[last][part]}" for part in parts]


def path_in_job(path: str, layers: Sequence[int]) -> str:
    """Return a path of the small model with the job's layer number.

    Args:
        path: with the layer's number in the small model.
        layers: for each layer of the small model, the number of the job's.
    """
    number = layer_of(path)
    if number is None or is_prediction(path) or number >= len(layers):
        return path
    return path.replace(f"layers.{number}", f"layers.{layers[number]}", 1)
