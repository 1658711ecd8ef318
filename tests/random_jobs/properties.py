"""Properties of every job that is planned, whatever its model, layout and LoRA."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from adapted_ranks import AdaptedRank, adapted_ranks, on_one_rank

from clora.fused import FUSED
from clora.plan import Fate
from clora_inspect.graph.folding import folded
from clora_inspect.graph.formats import FORMATS, renderer
from clora_inspect.graph.placement_graph import PlacementGraph
from clora_inspect.job.module_path import global_path
from clora_inspect.job.plan import decode, encode
from clora_inspect.pipeline import as_built, plan_job
from clora_inspect.sources.definition import load_definition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from adapted_ranks import Shard

    from clora.canonical_lora import CanonicalLoRA
    from clora.plan import Placement, Plan, Skip
    from clora_inspect.job.job import Job
    from clora_inspect.job.plan import JobPlan


def check_against_models(job: Job, plan: JobPlan) -> None:
    """Compare `plan` with the models of all ranks, really built and adapted, and of one rank."""
    definition = load_definition(job.model).override(job.model_overrides)
    layout = as_built(job, definition).layout
    ranks = adapted_ranks(definition, job.lora, layout)
    for rank in ranks:
        check_rank(rank, plan)
    check_tiles(shard for rank in ranks for shard in rank.shards)
    written = sum(shard.numel for rank in ranks for shard in rank.shards if not shard.is_copy)
    assert written == plan.totals.trainable_params
    numel, on_one = on_one_rank(definition, None if _is_numbered(job.lora) else job.lora)
    assert numel == plan.totals.base_params
    if on_one:
        check_whole_model(job, plan, on_one)


def _is_numbered(lora: CanonicalLoRA) -> bool:
    """Return whether the LoRA means other linears on one rank, and may be refused there.

    Layers and experts are numbered from 0 on every stage and rank, and patterns mean these.
    """
    return any(re.search(r"\d|\{", re.sub(r"linear_fc\d", "", target)) for target in lora.target_modules)


def check_rank(rank: AdaptedRank, plan: JobPlan) -> None:
    """Check that surgery made what the rank's class says and nothing else."""
    ranks = plan.rank_classes[rank.stage]
    assert rank.plan.placements == ranks.placements
    assert rank.plan.skipped == ranks.skipped
    assert rank.base_params == rank.base_params_after == ranks.base_params
    assert (
        rank.trainable_params
        == ranks.trainable_params
        == sum(prod(s) for a in rank.adapters.values() for s in a.values())
    )
    planned = {(p.chunk, p.module, p.part): {"in": p.a_shape, "out": p.b_shape} for p in ranks.placements}
    assert rank.adapters == planned
    # A multiplies what the base's weight multiplies on this rank.
    widths = {site: shapes["in"][-1] for site, shapes in rank.adapters.items() if site[:2] in rank.inputs}
    assert widths == {site: rank.inputs[site[:2]] for site in widths}
    assert len(planned) == len(ranks.placements)


def check_tiles(shards: Iterable[Shard]) -> None:
    """Check that what the ranks write covers each tensor exactly once, and that each copy is one of
    a part that is written.
    """
    by_key: dict[str, list[Shard]] = defaultdict(list)
    for shard in shards:
        by_key[shard.key].append(shard)
    for key, parts in by_key.items():
        assert len({part.shape for part in parts}) == 1, key
        written = [part for part in parts if not part.is_copy]
        corners = {(part.start, part.size) for part in written}
        assert len(corners) == len(written), f"{key}: a part is written twice"
        assert {(part.start, part.size) for part in parts} == corners, f"{key}: a copy of nothing"
        assert sum(part.numel for part in written) == prod(parts[0].shape), f"{key}: a part is missing"
        assert not any(_overlap(one, other) for i, one in enumerate(written) for other in written[:i]), key


def _overlap(one: Shard, other: Shard) -> bool:
    return all(a < b + m and b < a + n for a, n, b, m in zip(one.start, one.size, other.start, other.size, strict=True))


def check_whole_model(job: Job, plan: JobPlan, on_one: Plan) -> None:
    """Compare the sums of a plan with the plan on one rank, which splits nothing."""
    placements = [placement for ranks in plan.rank_classes for placement in ranks.placements]
    # With etp the rank of an expert is rounded up to what etp divides.
    rounded = job.lora.normalize_moe_lora and plan.layout.expert_tp > 1
    assert _adapters_of(placements, shapes=not rounded) == _adapters_of(on_one.placements, shapes=not rounded)
    if not rounded:
        assert plan.totals.trainable_params == on_one.trainable_params
    assert plan.totals.placements == len(on_one.placements)
    assert plan.totals.wrapped_modules == on_one.wrapped_modules


def _adapters_of(placements: Iterable[Placement], *, shapes: bool) -> Counter[tuple[object, ...]]:
    """Count the adapters of the whole model by path, part, scale and shapes."""
    count: Counter[tuple[object, ...]] = Counter()
    for each in placements:
        path = re.sub(r"local_experts\.\d+", "local_experts.*", global_path(each.module, each.global_layer))
        sizes = (each.dim, each.a_global_shape, each.b_global_shape) if shapes else ()
        count[path, each.part, each.alpha, each.wrapper, each.target, each.by_number, *sizes] += each.copies
    return count


def check_targets(job: Job, plan: JobPlan) -> None:
    """Compare the choice of linears with another reading of the patterns: regular expressions."""
    targets = {target: _regex(target) for target in job.lora.target_modules}
    excluded = {target: _regex(target) for target in job.lora.exclude_modules}
    is_gated = bool((plan.model.config or {}).get("gated_linear_unit"))
    for ranks in plan.rank_classes:
        for entry in (*ranks.placements, *ranks.skipped):
            names = _names_of(entry, is_gated=is_gated)
            chosen = [target for target, regex in targets.items() if any(map(regex.fullmatch, names))]
            out = any(regex.fullmatch(name) for regex in excluded.values() for name in (*names, entry.module))
            if not hasattr(entry, "reason"):
                assert chosen[:1] == ([entry.target] if targets else []), entry
                assert not out, entry
            elif entry.linears:
                assert not chosen, entry
                assert (entry.reason is Fate.EXCLUDED) == out, entry
                assert targets or out, entry


def _names_of(entry: Placement | Skip, *, is_gated: bool) -> list[str]:
    parent, _, name = entry.module.rpartition(".")
    parts = FUSED.get(name, {})
    if getattr(entry, "part", None):
        return [f"{parent}.{parts[entry.part]}"]
    # An fc1 without a gate has the name of its only part.
    named = [target for part, target in parts.items() if part != "gate" or is_gated]
    return [f"{parent}.{target}" for target in named] or [entry.module]


def _regex(target: str) -> re.Pattern[str]:
    words = []
    for word in re.split(r"(\*|\{\d+\.\.\d+\})", target):
        numbers = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", word)
        if numbers:
            words.append("(?:" + "|".join(map(str, range(int(numbers[1]), int(numbers[2]) + 1))) + ")")
        else:
            words.append(".*" if word == "*" else re.escape(word))
    is_path = any(letter in target for letter in ".*{")
    return re.compile(("" if is_path else r"(?:.*\.)?") + "".join(words))


def check_written(plan: JobPlan) -> None:
    """Read the plan's JSON again, and write it in all formats."""
    assert decode(encode(plan), "plan.json") == plan
    graph = PlacementGraph.from_job_plan(plan)
    adapters = [node for _, node in graph.graph.nodes(data=True) if node["kind"] == "adapter"]
    assert len(adapters) == sum(len(ranks.placements) for ranks in plan.rank_classes)
    for name in FORMATS:
        assert renderer(name)(folded(graph))


def check_snapshot(job: Job, plan: JobPlan) -> None:
    """Accept the plan: it is clean then, and another dim and another choice of linears are not."""
    from clora_inspect.snapshot.diff import compare
    from clora_inspect.snapshot.record import decode as decode_snapshot
    from clora_inspect.snapshot.record import encode as encode_snapshot
    from clora_inspect.snapshot.record import take

    accepted = decode_snapshot(encode_snapshot(take(plan, "job")), "snapshot.json")
    assert compare(accepted, take(plan, "job")).is_clean
    if not plan.totals.placements:
        return
    # Each plan builds the model again, so one of the two changes is enough for a job.
    is_wider = job.lora.dim % 16 != 0
    changed = {"dim": 2 * job.lora.dim} if is_wider else {"target_modules": [], "exclude_modules": ["*"]}
    other = plan_job(replace(job, lora=replace(job.lora, **changed)))
    assert is_wider or other.totals.placements == 0
    assert not compare(accepted, take(other, "job")).is_clean
