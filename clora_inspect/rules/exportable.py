"""`is_exportable`: whether an adapter of a linear could be exported with the job's other adapters.

Rules that propose targets ask it, so that they propose none that the rules about export refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.hf_names import NoHFLinear, hf_linears
from clora_inspect import engines

if TYPE_CHECKING:
    from clora.plan import ExpertFacts
    from clora_inspect.engines import Engine
    from clora_inspect.rules.linears import Linear
    from clora_inspect.rules.planned_job import PlannedJob


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A linear that may have no adapter yet."""

    module: str
    global_layer: int | None
    part: str | None
    experts: ExpertFacts | None = None


def engine_of(job: PlannedJob) -> Engine | None:
    """Return the profile of the engine that the job names; None when there is none, which CL610
    reports.
    """
    if not job.serve:
        return None
    try:
        return engines.load(job.serve)
    except engines.EngineError:
        return None


def is_exportable(job: PlannedJob, linear: Linear) -> bool:
    """Return whether the job exports no adapters, or Hugging Face's model and the job's engine can
    have one at `linear`.
    """
    model_type = job.plan.model.hf_model_type
    if not (job.export or job.serve) or not model_type:
        return True
    wanted = _Wanted(linear.local_path, linear.layer, linear.part)
    found = hf_linears(wanted, model_type, pattern=job.plan.pattern)
    if isinstance(found, NoHFLinear):
        return False
    engine = engine_of(job)
    return engine is None or all(one.module.rsplit(".", 1)[-1] in engine.modules for one in found)
