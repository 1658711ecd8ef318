"""The story: a job becomes a model, the model a plan per rank class, the plans one `JobPlan`. Read
this first.

    job -> model definition -> (for every distinct rank) real megatron-core modules on the meta
    device -> Plan -> JobPlan

Nothing is trained, nothing is modified; the modules exist only while their plan is made.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from clora.plan import Plan
from clora_inspect.job.cluster import Stage, stages
from clora_inspect.job.plan import JobPlan, ModelRecord, RankClass, Totals, lora_record
from clora_inspect.job.versions import versions
from clora_inspect.machine.collector import collector_paused
from clora_inspect.machine.quiet import quiet
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.rules.targeting.unmatched import target_findings
from clora_inspect.sources.definition import ModelDefinition, load_definition
from clora_inspect.sources.module_tree import Module, stage_modules, tree_facts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.job.job import Job
    from clora_inspect.job.layout import Layout


def plan_job(job: Job) -> JobPlan:
    """Plan `job` on every rank of its cluster.

    Raises:
        CloraError: the job cannot be: an unknown model, a layout that does not divide, a target
            that can never be right.
        BuildError: the model's own code failed.
    """
    job.lora.validate()
    definition = load_definition(job.model).override(job.model_overrides)
    definition.check(job.layout)
    return assemble(job, definition, plan_stages(job, definition))


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedStage:
    """The plan of one pipeline stage, and what its model says of itself."""

    stage: Stage
    plan: Plan
    config: dict[str, Any]
    modules: list[Module]


def plan_stages(job: Job, definition: ModelDefinition) -> list[PlannedStage]:
    """Build one rank of every stage and plan it."""
    # Only on meta do models of earlier stages weigh nothing until they are collected.
    with quiet(), collector_paused() if job.device == "meta" else nullcontext():
        from clora_inspect.sources.build import build_chunks
        from clora_inspect.sources.config_facts import config_facts
        from clora_inspect.virtual import megatron_on, virtual_cluster

        planned = []
        with megatron_on(job.device):
            for stage in stages(job.layout):
                with virtual_cluster(job.layout, stage.representative):
                    chunks = build_chunks(definition, job.layout)
                    plan = job.lora.plan(chunks)
                    planned.append(
                        PlannedStage(stage, plan, config_facts(chunks[0], job.layout), stage_modules(plan, chunks))
                    )
        return planned


def assemble(job: Job, definition: ModelDefinition, planned: list[PlannedStage]) -> JobPlan:
    """One document out of the plans of all stages: whole-model totals, and which targets selected
    nothing anywhere.
    """
    plans = [stage.plan for stage in planned]
    matches = {target: sum(plan.matches[target] for plan in plans) for target in job.lora.target_modules}
    unmatched = tuple(target for target, count in matches.items() if not count)
    made = JobPlan(
        versions=versions(device=job.device),
        model_source=job.model,
        model=model_record(job, definition, planned),
        lora=lora_record(job.lora),
        layout=job.layout.resolved(),
        totals=totals(plans),
        rank_classes=tuple(rank_class(job.layout, stage.stage, stage.plan) for stage in planned),
        matches=matches,
        unmatched_targets=unmatched,
        findings=(),
    )
    findings = target_findings(PlannedJob(made, targets_written=job.targets_written))
    return msgspec.structs.replace(made, findings=tuple(findings))


def model_record(job: Job, definition: ModelDefinition, planned: list[PlannedStage]) -> ModelRecord:
    """Return what the plan says about the model: the definition, and what was built from it."""
    tree = tree_facts(module for stage in planned for module in stage.modules)
    # A callable makes its config itself, so its definition holds none.
    known = not definition.is_user_function
    return ModelRecord(
        name=definition.name,
        family=definition.kind.value,
        notes=definition.notes,
        dtype=definition.config.get("params_dtype", "float32") if known else None,
        num_layers=definition.config["num_layers"] if known else None,
        hf_model_type=definition.model_type or None,
        pipeline_split=definition.split(job.layout).how if job.layout.pp > 1 else None,
        device=job.device,
        config=planned[0].config,
        overrides=dict(job.model_overrides) or None,
        class_name=tree.class_name,
        modules=tree.modules,
        fingerprint=tree.fingerprint,
    )


def totals(plans: Iterable[Plan]) -> Totals:
    """Whole-model sums. A sequential expert stands for its siblings on the other expert-parallel
    ranks.
    """
    plans = list(plans)
    placements = [placement for plan in plans for placement in plan.placements]
    in_decoder = [p for p in placements if p.module.startswith("decoder.") and p.wrapper != "LoRATopKRouter"]
    adapted = sum(p.copies for p in in_decoder)
    left = sum(s.linears * s.copies for plan in plans for s in plan.skipped if s.module.startswith("decoder."))
    return Totals(
        base_params=sum(plan.model_params for plan in plans),
        trainable_params=sum(p.model_params for p in placements),
        placements=sum(p.copies for p in placements),
        wrapped_modules=sum(sum({(p.chunk, p.module): p.copies for p in plan.placements}.values()) for plan in plans),
        linears=adapted + left,
        adapted_linears=adapted,
    )


def rank_class(layout: Layout, stage: Stage, plan: Plan) -> RankClass:
    """The ranks of one stage with their plan."""
    return RankClass(
        members=stage.members,
        count=stage.count,
        pp=stage.pp,
        vpp=(0, layout.vpp - 1),
        ep=(0, layout.ep - 1),
        etp=(0, layout.etp - 1),
        base_params=plan.base_params,
        trainable_params=plan.trainable_params,
        wrapped_modules=plan.wrapped_modules,
        placements=plan.placements,
        skipped=plan.skipped,
    )
