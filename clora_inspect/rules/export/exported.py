"""`ExportRule`, the base of the rules about export, and `exported()`, which groups the adapters of
a job with their Hugging Face linears.

Such a rule runs only if the job says that its adapter will be exported (`export = true`) or served
(`serve = "vllm"`).
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

    from clora.plan import Placement
    from clora_inspect.job.finding import Finding
    from clora_inspect.rules.linears import Linear
    from clora_inspect.rules.planned_job import PlannedJob


@dataclass(frozen=True, slots=True)
class Exported:
    """Adapters that differ in their layer alone, with the Hugging Face linears they belong to."""

    linears: list[Linear]
    placement: Placement
    """The adapter of the first of them."""
    found: tuple[HFLinear, ...] | NoHFLinear
    """The Hugging Face linears of layer 0, or why there are none."""

    @property
    def modules(self) -> tuple[HFLinear, ...]:
        """The Hugging Face linears; empty when there are none."""
        return () if isinstance(self.found, NoHFLinear) else self.found


def exported(job: PlannedJob) -> list[Exported]:
    """Group the adapters of `job` over layers, each group with its Hugging Face linears.

    The list is empty for a model whose Hugging Face names are not known.
    """
    model_type = job.plan.model.hf_model_type
    if not model_type:
        return []
    alike: dict[str, list[tuple[Linear, Placement]]] = {}
    for linear, placement in job.placements:
        alike.setdefault(without_layer(linear.at), []).append((linear, placement))
    made = []
    for adapters in alike.values():
        _, placement = adapters[0]
        # All layers have the same names but for the number, so that translating one is enough.
        layer = None if placement.global_layer is None else 0
        first = msgspec.structs.replace(placement, global_layer=layer)
        found = hf_linears(first, model_type, pattern=job.plan.pattern)
        made.append(Exported([linear for linear, _ in adapters], placement, found))
    return made


class ExportRule(Rule):
    """A rule that looks only at jobs with adapters that will be exported or served."""

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.adapted and (job.export or job.serve):
            yield from self.check_export(job)

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """Yield everything that this rule finds in `job`, whose adapter will leave Megatron."""
        raise NotImplementedError
