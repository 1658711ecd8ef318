"""CL6, checkpoint and export: what Megatron-Bridge gets wrong when it saves or exports adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.base import Rule
from clora_inspect.rules.export.exported import ExportRule
from clora_inspect.rules.linears import places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class NotReshardable(Rule):
    """Megatron-Bridge saves the adapters of up and gate as if they were fused: loaded at another
    tp, their rows come back in another order.

    Loading at the tp of the saving run is right; at any other tp the adapter is silently permuted.

    Bad: saving at tp = 4 and resuming, or exporting, at tp = 1, with Megatron-Bridge.
    Good: the same tp, or training with clora.
    """

    code = "CL602"
    name = "not-reshardable"
    severity = Severity.WARNING
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, tp = job.reference_with(Fault.SPLIT_FACTORY), job.plan.layout.tp
        split = job.adapted_parts("gate", "up")
        if reference and tp > 1 and split:
            yield self.found(
                f"checkpoints of the gate and up adapters load at tp = {tp} only: {reference.label} permutes their "
                "rows at any other",
                fix=f"resume and export at tp = {tp}, or train with clora",
                details=places(split),
                location=job.location_of("layout.tp"),
            )


class AdapterConfigIncomplete(ExportRule):
    """Nothing in Megatron-Bridge before 0.4 writes an `adapter_config.json`. A script that copies
    the targets there copies patterns too, and engines do not understand those.

    The engine then silently applies no adapter.

    Bad: `target_modules = ["*.layers.0.*.linear_proj"]`, exported by Megatron-Bridge 0.3.
    Good: bare names; or Megatron-Bridge 0.4, which names the linears of the exported weights.
    """

    code = "CL604"
    name = "adapter-config-incomplete"
    severity = Severity.ERROR
    reference_only = True

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        reference = job.reference_with(Fault.LEAKS_PATTERNS)
        if not reference:
            return
        for target in job.targets:
            # PEFT and engines compare an entry with the end of a path: only a bare name fits.
            if "*" in target or "." in target:
                yield self.found(
                    f'"{target}" names no module in an adapter_config.json, and {reference.label} writes none itself',
                    fix="write bare names, or train with clora",
                    target=target,
                    location=job.location_of_target(target),
                )


class ExpertGateOrder(ExportRule):
    """Megatron-Bridge from 0.5 on exports the gate and up rows of fused experts in the wrong order
    under expert tensor parallelism.

    Bad: etp = 2, experts targeted, exported by Megatron-Bridge.
    Good: etp = 1
    """

    code = "CL612"
    name = "expert-gate-order"
    severity = Severity.ERROR
    reference_only = True

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        reference, etp = job.reference_with(Fault.EXPERT_EXPORT), job.plan.layout.expert_tp
        # Only fc1 has two parts whose rows can change places.
        hit = [one for one in job.adapted_in(Place.EXPERTS) if one.last_name == "linear_fc1"]
        if reference and etp > 1 and hit and job.is_gated:
            yield self.found(
                f"the experts' fused gate and up are exported from etp = {etp}: {reference.label} writes their rows "
                "in the wrong order",
                fix="use etp = 1, or train with clora",
                details=places(hit),
                location=job.location_of("layout.etp"),
            )
