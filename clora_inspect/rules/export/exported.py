"""What rules about export share: adapters with their Hugging Face linears, and when to look at them.

Rules about export run where a job says that its adapter will be exported (`export = true`) or
served (`serve = "vllm"`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from clora.hf_names import HFLinear, NoHFLinear, hf_linears
from clora_inspect.job.module_path import without_layer
from clora_inspect.rules.base import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.job.finding import Finding
    from clora_inspect.rules.linears import Linear
    from clora_inspect.rules.planned_job import PlannedJob


@dataclass(frozen=True, slots=True)
class Exported:
    """Adapters that differ in their layer alone, and what they are in Hugging Face's model."""

    linears: list[Linear]
    found: tuple[HFLinear, ...] | NoHFLinear
    """In layer 0."""

    @property
    def modules(self) -> tuple[HFLinear, ...]:
        """The Hugging Face linears; none when there are none."""
        return () if isinstance(self.found, NoHFLinear) else self.found


def exported(job: PlannedJob) -> list[Exported]:
    """Every kind of adapter with its Hugging Face linears; none for a model whose names are not
    known.
    """
    model_type = job.plan.model.hf_model_type
    if not model_type:
        return []
    alike: dict[str, list[Linear]] = {}
    for linear in job.adapted:
        alike.setdefault(without_layer(linear.at), []).append(linear)
    made = []
    for linears in alike.values():
        placement = linears[0].placement
        if placement is not None:
            layer = None if placement.global_layer is None else 0
            made.append(
                Exported(linears, hf_linears(msgspec.structs.replace(placement, global_layer=layer), model_type))
            )
    return made


class ExportRule(Rule):
    """What the rules of this family have in common."""

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """What is found where the adapter leaves Megatron."""
        if job.adapted and (job.export or job.serve):
            yield from self.check_export(job)

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:  # noqa: ARG002 - a rule that is decided elsewhere looks at nothing
        """`check`, when the adapter will be exported."""
        return iter(())
