"""Plan a job: the model is built rank class by rank class, and each is planned. Read this first.

    job -> model definition -> (for each rank class) megatron-core modules on the meta device
    -> Plan -> JobPlan

Nothing is trained and nothing is modified. The modules exist only while their plan is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from clora.errors import CloraError, LayoutError
from clora.linears import language_model, layer_pattern, unwrap
from clora.plan import Plan, merged_towers
from clora_inspect.cost.settings import CostError, MicroBatchError
from clora_inspect.job.cluster import Stage, stages
from clora_inspect.job.finding import Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.layout import UNSET_ETP
from clora_inspect.job.plan import JobPlan, ModelRecord, RankClass, Totals, has_experts, lora_record
from clora_inspect.job.towers import Towers, towers_to_record
from clora_inspect.job.versions import versions
from clora_inspect.machine.collector import collector_paused
from clora_inspect.machine.quiet import quiet
from clora_inspect.rules import training_findings
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.rules.targeting.unmatched import target_findings
from clora_inspect.sources.definition import ModelDefinition, load_definition
from clora_inspect.sources.model_name import shown_name
from clora_inspect.sources.module_tree import Module, bypassing_modules, stage_modules, tree_facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from clora.plan import Placement, Skip
    from clora_inspect.cost.stages import RankCost
    from clora_inspect.job.job import Job
    from clora_inspect.job.layout import Layout
    from clora_inspect.job.workload import Workload
    from clora_inspect.sources.function_layout import StageContent


def plan_job(job: Job, workload: Workload | None = None) -> JobPlan:
    """Plan `job` on every rank of its cluster.

    Args:
        job: the job.
        workload: the micro-batches to count the memory of each rank for; None to count none.

    Raises:
        CostError: the memory cannot be counted.
        CloraError: there is no such model, the layout does not divide it, or a target can never be
            right.
        BuildError: the model's own code failed.
    """
    job.lora.validate()
    definition = load_definition(job.model).override(job.model_overrides)
    definition.check(job.layout)
    built = as_built(job, definition)
    try:
        planned = plan_stages(built, definition, workload)
    except MicroBatchError as error:
        raise _named_by_rule(error, assemble(job, definition, plan_stages(built, definition)), job) from error
    return assemble(job, definition, planned, workload)


def _named_by_rule(error: MicroBatchError, plan: JobPlan, job: Job) -> CostError:
    """Return the error with the reason that a rule has; as it is where no rule knows one."""
    against = training_findings(PlannedJob(plan, implementation=job.planned_by))
    found = next((each for each in against if each.severity is Severity.ERROR), None)
    if found is None:
        return error
    fix = f" Fix: {found.help}." if found.help else ""
    return CostError(
        f"The memory of {job.model} cannot be counted, because the job cannot be trained ({found.code}): "
        f"{found.message}.{fix}"
    )


def as_built(job: Job, definition: ModelDefinition) -> Job:
    """Return `job` with the layout that its model is built in: `etp` is set.

    Whether a user's function makes experts is not known yet. Its process groups are those of a
    model that has some.
    """
    may_have_experts = definition.has_experts or definition.is_user_function
    return dataclasses.replace(job, layout=job.layout.with_etp(has_experts=may_have_experts))


SLOW = 6.0
"""Seconds. A plan that takes longer is announced, so that nobody takes it for a hang."""


def slow_notice(job: Job) -> str | None:
    """Return a sentence for the user if planning `job` takes long; None if it does not."""
    try:
        definition = load_definition(job.model).override(job.model_overrides)
        definition.check(job.layout)
    except CloraError:
        # Planning raises the same error at once.
        return None
    seconds = definition.planning_seconds(job.layout)
    if seconds < SLOW:
        return None
    return f"{definition.name} is large: planning it takes about {seconds:.0f} seconds. Ctrl-C ends it."


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedStage:
    """The plan of one pipeline stage, with the facts of its model that outlive the modules."""

    stage: Stage
    plan: Plan
    config: dict[str, Any]
    """The fields of the model's config that are not the default, as JSON values."""
    modules: list[Module]
    bypassing: dict[str, str]
    """Class of modules that never call the linears in them -> the field of the config that asks for
    it.
    """
    pattern: str | None = None
    """The letters of the whole model's layers, where it is a HybridModel."""
    content: StageContent | None = None
    """Its layers and ends, where a user's function has built it."""
    has_sp: bool | None = None
    """Whether a user's function has built it for sequence parallelism; None where nobody knows."""
    cost: RankCost | None = None
    """Costs of one rank, where they were asked for."""


def plan_stages(job: Job, definition: ModelDefinition, workload: Workload | None = None) -> list[PlannedStage]:
    """Build one rank of each stage, plan it, and let its modules go. With a `workload` also adapt
    it, and count its memory.
    """
    # With the collector paused, models of earlier stages stay in memory. They take none on meta,
    # and on another device they would fill it.
    with quiet(), collector_paused() if job.device == "meta" else nullcontext():
        # torch and megatron-core are imported inside `quiet`: both print when they are imported.
        from clora_inspect.sources.build import build_chunks
        from clora_inspect.virtual import megatron_on, virtual_cluster

        count = None if workload is None else _cost_counter(job, workload)
        planned = []
        with megatron_on(job.device):
            planner = _planner_of(job)
            for stage in stages(job.layout):
                with virtual_cluster(job.layout, stage.representative):
                    chunks = build_chunks(definition, job.layout)
                    is_function = definition.is_user_function
                    planned.append(plan_stage(job, stage, chunks, planner, is_function=is_function))
                    if count is not None:
                        planned[-1] = dataclasses.replace(planned[-1], cost=count(planned[-1], chunks))
        return planned


def _cost_counter(job: Job, workload: Workload) -> Callable[[PlannedStage, list[nn.Module]], RankCost]:
    """Return a function that adapts the chunks of one planned stage and counts what it costs.

    Raises:
        CostError: the job is built on another device than meta.
    """
    from clora import surgery
    from clora_inspect.cost.stages import StageCosts

    costs = StageCosts(job, workload)

    def count(planned: PlannedStage, chunks: list[nn.Module]) -> RankCost:
        if job.planned_by == "clora":
            surgery.apply(planned.plan, chunks, job.lora)
        else:
            # Its plan is read off its surgery, which is undone.
            from clora_inspect.bridge.canonical_lora import BridgeLoRA

            BridgeLoRA.installed().apply([unwrap(chunk) for chunk in chunks], dataclasses.replace(job.lora))
        return costs.of(planned.stage, chunks)

    return count


Planner = Callable[["Sequence[nn.Module]"], Plan]
"""Makes the plan of one rank's chunks."""


def _planner_of(job: Job) -> Planner:
    """Return the planner of the implementation that `job` names.

    Raises:
        DeviceError: Megatron-Bridge is not installed, or cannot be imported.
    """
    if job.planned_by == "clora":
        return job.lora.plan
    from clora_inspect.bridge.canonical_lora import BridgeLoRA
    from clora_inspect.bridge.surgery import plan_of_surgery

    bridge = BridgeLoRA.installed()
    return lambda chunks: plan_of_surgery(chunks, job.lora, bridge)


def plan_stage(
    job: Job,
    stage: Stage,
    chunks: Sequence[nn.Module],
    planner: Planner | None = None,
    *,
    is_function: bool = False,
) -> PlannedStage:
    """Plan the model chunks of one rank of `stage`, which a user's function may have built.

    `planner` is clora's when it is left out.
    """
    from clora_inspect.sources.config_facts import config_facts
    from clora_inspect.sources.function_layout import content_of

    # First, because Megatron-Bridge's surgery changes the modules and the config.
    language = language_model(unwrap(chunks[0]))
    config = config_facts(language, job.layout)
    content = content_of(chunks) if is_function else None
    has_sp = getattr(getattr(language, "config", None), "sequence_parallel", None) if is_function else None
    pattern = layer_pattern(language)
    letters = None if pattern is None else pattern.letters
    plan = (planner or job.lora.plan)(chunks)
    modules, bypassing = stage_modules(plan, chunks), bypassing_modules(chunks)
    return PlannedStage(stage, plan, config, modules, bypassing, letters, content, has_sp)


def assemble(
    job: Job, definition: ModelDefinition, planned: Sequence[PlannedStage], workload: Workload | None = None
) -> JobPlan:
    """Build one plan of the whole job from the plans of all its stages.

    Args:
        job: the job as the user asked for it.
        definition: its model.
        planned: the stages of `as_built(job, definition)`.
        workload: what their memory was counted for.
    """
    plans = [stage.plan for stage in planned]
    if definition.is_user_function:
        _check_content(definition, planned)
    else:
        _check_layers(definition, plans)
    # Only what a user's function built tells whether it has experts.
    built_experts = any(has_experts(plan.placements, plan.skipped) for plan in plans)
    layout = job.layout.with_etp(has_experts=definition.has_experts or built_experts)
    # A user's function decides sequence parallelism where the job does not say it.
    if layout.sp is None and planned[0].has_sp is False:
        layout = msgspec.structs.replace(layout, sp=False)
    # A target may select nothing on one stage and something on another, so only the sum over all
    # stages tells whether it is unmatched.
    matches = {target: sum(plan.matches[target] for plan in plans) for target in job.lora.target_modules}
    plan = JobPlan(
        versions=versions(device=job.device) | _versions_of_planner(job),
        model_source=job.model,
        model=model_record(job, definition, planned, notes=(*_notes_on_planner(job), *_notes_on(job.layout, layout))),
        lora=lora_record(job.lora),
        layout=layout.resolved(),
        totals=totals(plans),
        rank_classes=tuple(rank_class(layout, stage.stage, stage.plan, stage.cost) for stage in planned),
        matches=matches,
        unmatched_targets=tuple(target for target, count in matches.items() if not count),
        workload=UNSET if workload is None else workload,
        findings=(),
    )
    findings = target_findings(PlannedJob(plan, targets_written=job.targets_written))
    return msgspec.structs.replace(plan, findings=tuple(findings))


def _versions_of_planner(job: Job) -> dict[str, str]:
    if job.planned_by == "clora":
        return {}
    from clora_inspect.bridge.installed import DISTRIBUTION, release

    return {DISTRIBUTION: release()}


def _notes_on_planner(job: Job) -> tuple[str, ...]:
    who = " ".join(" ".join(item) for item in _versions_of_planner(job).items())
    return (f"Adapted by {who}: the plan shows what it does, which may differ from clora's.",) if who else ()


def _check_content(definition: ModelDefinition, planned: Sequence[PlannedStage]) -> None:
    """Refuse stages of a user's function that do not make one model.

    Raises:
        LayoutError: a layer is on several stages or on none, with the layers of each stage.
    """
    from clora_inspect.sources.function_layout import check_stages

    check_stages(definition.name, [stage.content for stage in planned if stage.content is not None])


def _check_layers(definition: ModelDefinition, plans: Sequence[Plan]) -> None:
    """Refuse stages that do not hold each layer of the decoder once.

    Raises:
        LayoutError: a layer is built on several stages or on none, with the layers of each stage.
    """
    held = [_decoder_layers(plan) for plan in plans]
    layers = definition.built_layers
    if sorted(number for stage in held for number in stage) != list(range(layers)):
        stages = "; ".join(f"stage {number}: {fold(stage) or 'none'}" for number, stage in enumerate(held))
        raise LayoutError(
            f"{definition.name} has {layers} layers, 0 to {layers - 1}, and its {len(held)} stages do not hold each "
            f"of them once ({stages}). Use another --pp, or other fields that split the pipeline."
        )


def _decoder_layers(plan: Plan) -> set[int]:
    """Return the global numbers of the decoder's layers on one rank."""
    entries: tuple[Placement | Skip, ...] = (*plan.placements, *plan.skipped)
    return {
        entry.global_layer
        for entry in entries
        if entry.global_layer is not None and Towers(plan.towers).in_decoder(entry.module)
    }


def _notes_on(written: Layout, layout: Layout) -> tuple[str, ...]:
    if written.etp is None and layout.expert_tp > 1:
        return (f"etp {layout.etp} ({UNSET_ETP}): each routed expert is split over {layout.etp} ranks.",)
    return ()


def model_record(
    job: Job, definition: ModelDefinition, planned: Sequence[PlannedStage], notes: tuple[str, ...] = ()
) -> ModelRecord:
    """Return what a plan says about the model: its definition, and what was built from it. `notes`
    follow those of the definition.
    """
    tree = tree_facts(module for stage in planned for module in stage.modules)
    # A function makes its config itself, so its definition has no fields.
    has_fields = not definition.is_user_function
    return ModelRecord(
        name=shown_name(definition.name),
        family=definition.kind.value,
        notes=(*definition.notes, *notes),
        dtype=definition.config.get("params_dtype", "float32") if has_fields else None,
        num_layers=definition.built_layers if has_fields else None,
        layer_pattern=planned[0].pattern,
        hf_model_type=definition.model_type or None,
        names_architecture=None if definition.names_architecture else False,
        pipeline_split=definition.split(job.layout).how if job.layout.pp > 1 else None,
        device=job.device,
        config=planned[0].config,
        overrides=dict(job.model_overrides) or None,
        class_name=tree.class_name,
        modules=tree.modules,
        fingerprint=tree.fingerprint,
        bypassing={name: option for stage in planned for name, option in stage.bypassing.items()} or None,
        towers=towers_to_record(stage.plan.towers for stage in planned),
    )


def totals(plans: Iterable[Plan]) -> Totals:
    """Return the sums over the whole model.

    Each plan is one rank's. What its expert-parallel siblings hold beside it is counted with
    `copies`: a sequential expert stands for one expert on each of them.
    """
    plans = list(plans)
    placements = [placement for plan in plans for placement in plan.placements]
    # Coverage counts linears only, and a router is none although it gets an adapter.
    towers = Towers(merged_towers(plan.towers for plan in plans))
    in_decoder = [p for p in placements if towers.in_decoder(p.module) and p.wrapper != "LoRATopKRouter"]
    adapted = sum(p.copies for p in in_decoder)
    unadapted = sum(s.linears * s.copies for plan in plans for s in plan.skipped if towers.in_decoder(s.module))
    return Totals(
        base_params=sum(plan.model_params for plan in plans),
        trainable_params=sum(p.model_params for p in placements),
        placements=sum(p.copies for p in placements),
        # The parts of a fused linear are several placements in one wrapped module.
        wrapped_modules=sum(sum({(p.chunk, p.module): p.copies for p in plan.placements}.values()) for plan in plans),
        linears=adapted + unadapted,
        adapted_linears=adapted,
    )


def rank_class(layout: Layout, stage: Stage, plan: Plan, cost: RankCost | None = None) -> RankClass:
    """Return the ranks of one stage with their plan, and what one of them needs."""
    return RankClass(
        members=stage.members,
        count=stage.count,
        pp=stage.pp,
        vpp=(0, layout.vpp - 1),
        ep=(0, layout.ep - 1),
        etp=(0, layout.expert_tp - 1),
        base_params=plan.base_params,
        trainable_params=plan.trainable_params,
        wrapped_modules=plan.wrapped_modules,
        placements=plan.placements,
        skipped=plan.skipped,
        model_params=plan.model_params,
        matches=plan.matches,
        memory=cost.memory if cost else UNSET,
        traffic=cost.traffic if cost else UNSET,
        flops=cost.flops if cost else UNSET,
    )
