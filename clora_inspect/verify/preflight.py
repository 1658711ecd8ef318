"""Before the first proof: plan the job, adapt its own model at its own size on the meta device, and
ask the rules whether megatron-core can train it at all.

Tensors on the meta device have shapes and no values, so a model of any size fits. A small model
cannot show everything: only the job's own has both layer 1 and layer 10 for a target to confuse,
and a pipeline with all its stages.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError, LayoutError
from clora_inspect.job.cluster import Stage, stages
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.module_path import global_path, layer_of
from clora_inspect.job.plan import JobPlan
from clora_inspect.machine.collector import collector_paused
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import PlannedStage, as_built, assemble, plan_stage
from clora_inspect.rules import training_findings
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.verify.outcome import Refuted, broken_off, place_of
from clora_inspect.verify.proof_table import PLACEMENTS
from clora_inspect.verify.report import ProofResult, ProofStatus
from clora_inspect.verify.small.layer_kinds import entries_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora.plan import Plan
    from clora_inspect.job.implementation import ImplementationName
    from clora_inspect.job.job import Job
    from clora_inspect.sources.definition import ModelDefinition
    from clora_inspect.verify.implementation.protocol import Implementation


@dataclass(frozen=True, slots=True)
class Preflight:
    """The job's plan and the result of `placements`, which is proved before all others."""

    plan: JobPlan
    """Plan of the whole job."""
    result: ProofResult
    """Result of `placements`."""
    dtype: str
    """Dtype of most of the job's own parameters, for example `bfloat16`."""
    refusals: tuple[ProofResult, ...]
    """A failure for each rule that finds that the base raises in its first training step."""
    doubts: tuple[str, ...]
    """A sentence for each reason why the base may not train, which no CPU can show."""
    no_pipeline: LayoutError | None
    """Why a user's model cannot be run on several stages; None where it can, or is no user's."""


@dataclass(frozen=True, slots=True)
class _AdaptedStage:
    planned: PlannedStage
    elements: Counter[str]
    """Elements of parameters by dtype."""
    refuted: Refuted | None
    """First difference between the adapted stage and its plan; None when there is none."""
    no_pipeline: LayoutError | None


def preflight(
    job: Job, definition: ModelDefinition, implementation: ImplementationName, doing: Callable[[str], None]
) -> Preflight:
    """Plan and adapt the job on the meta device, one pipeline stage after another.

    Raises:
        CloraError: the job cannot be planned.
        BuildError: the model's own code failed.
    """
    began = time.perf_counter()
    # The collector would walk every new module again and again, to free models of earlier stages
    # that take no memory on the meta device.
    with quiet(), collector_paused():
        from clora_inspect.verify.implementation.by_name import implementation_of
        from clora_inspect.verify.implementation.guarded import Guarded
        from clora_inspect.virtual import megatron_on

        job.lora.validate()
        definition.check(job.layout)
        adapted: list[_AdaptedStage] = []
        with megatron_on("meta"):
            guarded = Guarded(implementation_of(implementation))
            built = as_built(job, definition)
            for stage in stages(built.layout):
                doing(f"adapting stage {stage.pp} of the job on the meta device")
                # One difference is enough for the result: later stages are planned, not adapted.
                refuted_before = any(one.refuted for one in adapted)
                adapted.append(_adapt_stage(built, definition, stage, None if refuted_before else guarded))
    plan = assemble(job, definition, [one.planned for one in adapted])
    elements = sum((one.elements for one in adapted), Counter[str]())
    dtype = max(elements, key=lambda name: elements[name], default="float32")
    against = training_findings(PlannedJob(plan, implementation=implementation))
    return Preflight(
        plan=plan,
        result=_result(adapted, time.perf_counter() - began),
        dtype=dtype,
        refusals=tuple(_refusal(finding) for finding in against if finding.severity is Severity.ERROR),
        doubts=tuple(
            f"{finding.code}: {finding.message}." for finding in against if finding.severity is not Severity.ERROR
        ),
        no_pipeline=next((one.no_pipeline for one in adapted if one.no_pipeline is not None), None),
    )


def _refusal(finding: Finding) -> ProofResult:
    """Return `finding` as a proof that failed. A real proof would meet the exception that it speaks
    of, and could only say that something in the base raised.
    """
    fix = f" Fix: {finding.help}." if finding.help else ""
    return ProofResult(
        proof=finding.name,
        code=finding.code,
        status=ProofStatus.FAILED,
        detail=f"{finding.message}.{fix}",
        where=finding.where,
    )


def _adapt_stage(
    job: Job, definition: ModelDefinition, stage: Stage, implementation: Implementation | None
) -> _AdaptedStage:
    """Build and plan one stage; with an implementation also adapt it and compare."""
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.virtual import virtual_cluster

    with virtual_cluster(job.layout, stage.representative):
        chunks = build_chunks(definition, job.layout)
        elements = _elements_by_dtype(chunks)
        no_pipeline = _against_pipeline(definition, job, chunks)
        planned = plan_stage(job, stage, chunks, is_function=definition.is_user_function)
        refuted = None if implementation is None else _difference(implementation, chunks, planned.plan, job)
    return _AdaptedStage(planned, elements, refuted, no_pipeline)


def _against_pipeline(definition: ModelDefinition, job: Job, chunks: list[Any]) -> LayoutError | None:
    from clora_inspect.verify.model.pipeline_parts import check_pipeline_parts

    if not definition.is_user_function or job.layout.pp == 1:
        return None
    try:
        check_pipeline_parts(job.model, chunks)
    except LayoutError as error:
        return error
    return None


def _result(adapted: list[_AdaptedStage], seconds: float) -> ProofResult:
    known: dict[str, Any] = {"proof": PLACEMENTS.name, "code": PLACEMENTS.code, "seconds": round(seconds, 3)}
    refuted = next((one.refuted for one in adapted if one.refuted is not None), None)
    if refuted is not None:
        return ProofResult(**known, status=ProofStatus.FAILED, detail=str(refuted), where=refuted.where)
    # Every adapter has two tensors, A and B.
    adapters = sum(len(one.planned.plan.placements) for one in adapted)
    detail = f"on the job's own model, without values, surgery makes the planned {adapters} adapters" + (
        f" on {len(adapted)} stages" if len(adapted) > 1 else ""
    )
    return ProofResult(**known, status=ProofStatus.PASSED, detail=detail, tensors=2 * adapters)


def _elements_by_dtype(chunks: list[Any]) -> Counter[str]:
    elements: Counter[str] = Counter()
    for chunk in chunks:
        for parameter in chunk.parameters():
            if parameter.is_floating_point():
                elements[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return elements


def _difference(implementation: Implementation, chunks: list[Any], plan: Plan, job: Job) -> Refuted | None:
    """Adapt one stage's chunks in place; return the first thing that is not as planned."""
    from clora_inspect.verify.model.shapes import compare_shapes
    from clora_inspect.verify.model.sites import sites_of
    from clora_inspect.verify.proofs.surgery import compare_with_plan

    try:
        # A copy, because an implementation may keep state in the object that it is given.
        chunks = implementation.apply(chunks, replace(job.lora))
    except CloraError as error:
        return Refuted(f"Surgery refuses: {error}")
    except Refuted as refuted:
        return refuted
    try:
        sites = sites_of(chunks, plan.placements)
        compare_with_plan(plan, sites)
        compare_shapes(sites)
    except Refuted as refuted:
        return Refuted(str(refuted), where=_path_in_job(refuted.where, plan))
    # Modules of another implementation may raise anything when they are looked at.
    except Exception as error:
        if implementation.is_ours:
            raise
        return Refuted(broken_off(error), where=_path_in_job(place_of(error), plan))
    return None


def _path_in_job(where: str | None, plan: Plan) -> str | None:
    """Return a path of one stage with the layer's number in the whole model."""
    if where is None or layer_of(where) is None:
        return where
    module = where.partition("[")[0]
    global_layers = {entry.module: entry.global_layer for entry in entries_of(plan)}
    return global_path(module, global_layers.get(module)) + where[len(module) :]
