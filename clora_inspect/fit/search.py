"""Search the layouts in which a job fits, cheapest first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clora.errors import CloraError, GeometryError
from clora_inspect.fit.candidates import Batch, Candidate, Refused, candidates
from clora_inspect.fit.estimate import Estimate, Machine, estimate
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.machine.collector import collector_paused
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.definition import load_definition

if TYPE_CHECKING:
    from clora_inspect.fit.unit import Unit
    from clora_inspect.job.job import Job
    from clora_inspect.sources.definition import ModelDefinition


@dataclass(frozen=True, slots=True)
class Fit:
    """The result of a search."""

    batch: Batch
    machine: Machine
    limit_bytes: int
    fitting: tuple[Estimate, ...]
    """Cheapest first."""
    too_large: int
    """Candidates that need more memory."""
    refused: Refused
    smallest: Estimate
    """The candidate that needs least memory."""
    asked: Estimate | None
    """The layout of the job itself on these GPUs; None where it cannot be built on them."""
    smallest_change: Estimate | None
    """The fitting candidate that differs least from it; None where it fits or nothing does."""


def fit(job: Job, batch: Batch, limit_bytes: int, machine: Machine | None = None) -> Fit:
    """Return the layouts in which `job` fits into `limit_bytes` on each rank.

    Raises:
        CloraError: there is no such model, or no layout can be built.
    """
    machine = machine or Machine()
    # Candidates recompute or not, whatever the job says.
    job = replace(job, model_overrides={**job.model_overrides, **recompute_fields("none")})
    definition = load_definition(job.model)
    if definition.is_user_function:
        raise CloraError(f"{job.model} makes its own config, so its layers are not known. fit takes an architecture.")
    if job.planned_by != "clora":
        raise CloraError(f"fit counts clora's adapters, and not those of {job.planned_by}: leave --implementation out.")
    definition = definition.override(job.model_overrides)
    refused = Refused()
    found = list(candidates(definition, batch, refused))
    if not found:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in refused.reasons.most_common())
        raise CloraError(f"{definition.name} cannot be spread over {batch.gpus} GPUs in any layout: {reasons}.")
    estimates = _estimates(job, definition, found, batch, machine, refused)
    fitting = sorted((each for each in estimates if each.peak_bytes <= limit_bytes), key=lambda each: each.seconds)
    asked = _asked(job, definition, estimates)
    fits = asked is not None and asked.peak_bytes <= limit_bytes
    return Fit(
        batch=batch,
        machine=machine,
        limit_bytes=limit_bytes,
        fitting=tuple(fitting),
        too_large=len(estimates) - len(fitting),
        refused=refused,
        smallest=min(estimates, key=lambda each: each.peak_bytes),
        asked=asked,
        smallest_change=None if fits or asked is None else _nearest(asked.candidate, fitting),
    )


def _estimates(
    job: Job, definition: ModelDefinition, found: list[Candidate], batch: Batch, machine: Machine, refused: Refused
) -> list[Estimate]:
    """Measure each way to split a layer once, and estimate all candidates from that."""
    # Measured, or the reason why it cannot be.
    units: dict[tuple[int, ...], Unit | str] = {}
    with quiet(), collector_paused():
        from clora_inspect.fit.unit import measured
        from clora_inspect.virtual import megatron_on

        estimates = []
        with megatron_on("meta"):
            for candidate in found:
                layout = candidate.layout
                key = (layout.tp, layout.cp, layout.ep, layout.expert_tp)
                if key not in units:
                    try:
                        units[key] = measured(definition, job.lora, layout, batch.seq_length, job.model_overrides)
                    except GeometryError:
                        units[key] = "tp or etp does not divide the LoRA rank"
                unit = units[key]
                if isinstance(unit, str):
                    refused.add(unit)
                else:
                    estimates.append(estimate(candidate, unit, definition, batch, machine))
        return estimates


def _asked(job: Job, definition: ModelDefinition, estimates: list[Estimate]) -> Estimate | None:
    """Return the estimate of the job's own layout, with the smallest micro-batch and no
    recomputation.
    """
    sizes = job.layout.with_etp(has_experts=definition.has_experts).sizes()
    for each in estimates:
        layout = each.candidate.layout
        if layout.sizes() == sizes and layout.vpp == job.layout.vpp and each.candidate.recompute == "none":
            return each
    return None


def _nearest(asked: Candidate, fitting: list[Estimate]) -> Estimate | None:
    """Return the fitting candidate with the fewest other settings, of these the cheapest."""
    return min(fitting, key=lambda each: (len(each.candidate.changes(asked)), each.seconds), default=None)
