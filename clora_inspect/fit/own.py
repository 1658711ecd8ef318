"""Find the candidate that a job itself is. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.errors import LayoutError
from clora_inspect.fit.candidates import Candidate, fault
from clora_inspect.job.recompute import recompute_text

if TYPE_CHECKING:
    from clora_inspect.fit.candidates import Batch
    from clora_inspect.job.job import Job
    from clora_inspect.job.workload import Workload
    from clora_inspect.sources.definition import ModelDefinition


def own_candidate(job: Job, definition: ModelDefinition, batch: Batch, workload: Workload) -> Candidate | str:
    """Return the job's own layout on the GPUs of `batch`, or why it cannot be built or run there.

    Args:
        job: the job.
        definition: its model, with its fields.
        batch: the GPUs and the rows of a step.
        workload: of which the rows of a micro-batch are taken.
    """
    layout = job.layout.with_etp(has_experts=definition.has_experts)
    try:
        layout = msgspec.structs.replace(layout, sp=None, world_size=batch.gpus)
    except LayoutError:
        return f"it takes a multiple of {layout.model_world} GPUs"
    found = fault(definition, layout, workload.micro_batch_size, batch)
    if found is not None:
        return found
    return Candidate(layout, workload.micro_batch_size, recompute_text(definition.config))
