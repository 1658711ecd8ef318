"""Set the etp of a layout that leaves it out, as far as a model's file tells. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.errors import CloraError
from clora_inspect.sources.definition import load_definition

if TYPE_CHECKING:
    from clora_inspect.job.job import Job
    from clora_inspect.job.layout import Layout


def settled(job: Job) -> Layout:
    """Return the layout of `job` with its etp set.

    It is returned as it is where a user's function makes the model, which is not called here, and
    where the model cannot be read: planning says why.

    Call it where the job's paths can be found.
    """
    if job.layout.etp is not None or job.layout.tp == 1:
        return job.layout.with_etp(has_experts=False)
    try:
        definition = load_definition(job.model).override(job.model_overrides)
    except (CloraError, OSError):
        return job.layout
    return job.layout if definition.is_user_function else job.layout.with_etp(has_experts=definition.has_experts)
