"""The job's own model at its own size, without values: planned, adapted for real on every pipeline
stage, and looked at.

What the small model cannot show is looked at here: targets that hit layer 1 and layer 10, a layout
that only the whole model has.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError
from clora_inspect.job.cluster import stages
from clora_inspect.job.module_path import global_path, layer_of
from clora_inspect.job.plan import JobPlan
from clora_inspect.machine.collector import collector_paused
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import PlannedStage, assemble
from clora_inspect.sources.module_tree import stage_modules
from clora_inspect.verify.outcome import Refuted
from clora_inspect.verify.report import ProofResult, ProofStatus
from clora_inspect.verify.small.layer_kinds import entries_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora.plan import Plan
    from clora_inspect.job.job import Job
    from clora_inspect.sources.definition import ModelDefinition
    from clora_inspect.verify.implementation.protocol import Implementation
    from clora_inspect.verify.task import ImplementationName

NAME, CODE = "placements", "CL513"


@dataclass(frozen=True, slots=True)
class Preflight:
    """What is known before the first proof."""

    plan: JobPlan
    """The job's."""
    result: ProofResult
    """Whether the implementation does what the plan says on every stage."""
    dtype: str
    """Of most of the model's parameters, as they are made."""


def preflight(
    job: Job, definition: ModelDefinition, implementation: ImplementationName, doing: Callable[[str], None]
) -> Preflight:
    """Plan and adapt the job on the meta device, one pipeline stage after another.

    Raises:
        CloraError: the job cannot be planned.
        BuildError: the model's own code failed.
    """
    began = time.perf_counter()
    planned: list[PlannedStage] = []
    wrong: Refuted | None = None
    adapters = 0
    elements: Counter[str] = Counter()
    # On meta models of earlier stages weigh nothing until they are collected.
    with quiet(), collector_paused():
        from clora_inspect.sources.build import build_chunks
        from clora_inspect.sources.config_facts import config_facts
        from clora_inspect.verify.implementation.by_name import implementation_of
        from clora_inspect.verify.implementation.guarded import Guarded
        from clora_inspect.virtual import megatron_on, virtual_cluster

        job.lora.validate()
        definition.check(job.layout)
        with megatron_on("meta"):
            chosen = Guarded(implementation_of(implementation))
            for stage in stages(job.layout):
                doing(f"adapting stage {stage.pp} of the job on the meta device")
                with virtual_cluster(job.layout, stage.representative):
                    chunks = build_chunks(definition, job.layout)
                    elements += _by_dtype(chunks)
                    plan = job.lora.plan(chunks)
                    planned.append(
                        PlannedStage(stage, plan, config_facts(chunks[0], job.layout), stage_modules(plan, chunks))
                    )
                    if wrong is None:
                        wrong = _adapted(chosen, chunks, plan, job)
                    adapters += len(plan.placements)
    made = assemble(job, definition, planned)
    dtype = max(elements, key=lambda name: elements[name], default="float32")
    known: dict[str, Any] = {"proof": NAME, "code": CODE, "seconds": round(time.perf_counter() - began, 3)}
    if wrong is not None:
        return Preflight(
            made, ProofResult(**known, status=ProofStatus.FAILED, detail=str(wrong), where=wrong.where), dtype
        )
    detail = f"on the job's own model, without values, surgery makes the planned {adapters} adapters" + (
        f" on {len(planned)} stages" if len(planned) > 1 else ""
    )
    return Preflight(made, ProofResult(**known, status=ProofStatus.PASSED, detail=detail, tensors=2 * adapters), dtype)


def _by_dtype(chunks: list[Any]) -> Counter[str]:
    """Elements of parameters by the dtype that they have."""
    counted: Counter[str] = Counter()
    for chunk in chunks:
        for parameter in chunk.parameters():
            if parameter.is_floating_point():
                counted[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return counted


def _adapted(implementation: Implementation, chunks: list[Any], plan: Plan, job: Job) -> Refuted | None:
    """Adapt one stage's chunks, and say what is not as planned."""
    from clora_inspect.verify.model.sites import sites_of
    from clora_inspect.verify.proofs.surgery import compare_shapes, compare_with_plan

    try:
        chunks = implementation.apply(chunks, replace(job.lora))
    except CloraError as error:
        return Refuted(f"Surgery refuses: {error}")
    except Refuted as refuted:
        return refuted
    sites = sites_of(chunks, plan.placements)
    try:
        compare_with_plan(plan, sites)
        compare_shapes(sites)
    except Refuted as refuted:
        return Refuted(str(refuted), where=_global(refuted.where, plan))
    return None


def _global(where: str | None, plan: Plan) -> str | None:
    """A path of one stage with the layer's number in the whole model."""
    if where is None:
        return None
    module = where.partition("[")[0]
    known = {entry.module: entry.global_layer for entry in entries_of(plan)}
    return where if layer_of(where) is None else global_path(module, known.get(module)) + where[len(module) :]
