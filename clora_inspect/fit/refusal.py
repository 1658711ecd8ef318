"""Refuse jobs whose model cannot be laid out anew, with a way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.errors import CloraError
from clora.families.base.model_kind import ModelKind
from clora_inspect.sources.model_name import run_file
from clora_inspect.sources.run.cost import cost_of_run

if TYPE_CHECKING:
    from clora_inspect.job.job import Job
    from clora_inspect.sources.definition import ModelDefinition


def refuse_fixed_layout(job: Job, definition: ModelDefinition) -> None:
    """Refuse a job whose layers are not known before it is built, or that others adapt.

    Raises:
        CloraError: the reason, and what to do instead.
    """
    unknown = {
        ModelKind.USER_FUNCTION: f"{job.model} makes its own config, so its layers are not known before it is called",
        ModelKind.BRIDGE: f"Megatron-Bridge converts {job.model}, so its layers are not known before it is built",
    }
    if definition.kind in unknown:
        raise CloraError(
            f"{unknown[definition.kind]}: fit takes an architecture or a config.json. Count one layout at a time: "
            f"clora-inspect plan {job.model} --memory --tp N"
        )
    if job.planned_by != "clora":
        raise CloraError(f"fit counts clora's adapters, and not those of {job.planned_by}: leave --implementation out.")
    if (reason := cost_of_run(run_file(job.model)).refused) is not None:
        raise CloraError(f"The memory of {job.model} cannot be counted: {reason}")
    if job.device != "meta":
        raise CloraError(f"fit measures layers on the meta device, and --device is {job.device}: leave --device out.")
