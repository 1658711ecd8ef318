"""CL3, parallel layout: more tensor-parallel ranks than key-value groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class TPExceedsGroups(Rule):
    """There are more tensor-parallel ranks than key-value groups, so that several ranks share the
    rows of one group.

    megatron-core gathers the group before the attention, and clora's adapters follow it: outputs
    and gradients are those of one rank, at the cost of communication. An attention with an output
    gate cannot run like this, see CL316. Where Megatron-Bridge trains, the adapters are wrong: see
    CL203.

    Bad: Qwen3-30B-A3B (4 groups) with tp = 8 and no need for it.
    Good: tp = 4
    """

    code = "CL307"
    name = "tp-exceeds-groups"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        tp, groups = job.plan.layout.tp, job.config.get("num_query_groups")
        split = job.adapted_parts("q", "k", "v")
        # CL203 reports the layout where Megatron-Bridge trains, and CL316 where there is a gate.
        gated = job.config.get("attention_output_gate")
        if groups and groups < tp and split and not job.reference and not gated:
            yield self.found(
                f"tp = {tp} cuts each of the {groups} key-value groups over {tp // groups} ranks: the q, k and v "
                "adapters follow, at the cost of communication",
                fix=f"use tp <= {groups} to avoid it",
                details=places(split),
                location=job.location_of("layout.tp"),
            )


class OutputGateExceedsGroups(Rule):
    """The attention has an output gate, and there are more tensor-parallel ranks than key-value
    groups: megatron-core cannot run the base model, whatever adapters it has.

    It gathers a group's rows over the ranks that share it, then cuts the query heads to the rank
    and forgets to cut the gate. The first forward raises a RuntimeError about a shape. tp up to the
    number of groups runs.

    Bad: Qwen3-Next-80B-A3B (2 groups) with tp = 4.
    Good: tp = 2
    """

    code = "CL316"
    name = "output-gate-exceeds-groups"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        tp, groups = job.plan.layout.tp, job.config.get("num_query_groups")
        gated = job.config.get("attention_output_gate") and job.modules_of("SelfAttention")
        if gated and groups and groups < tp:
            yield self.found(
                f"tp = {tp} and {groups} key-value groups with an output gate: megatron-core cuts the query heads to "
                "the rank and not the gate, and its first forward raises (attention.py)",
                fix=f"use tp <= {groups}",
                location=job.location_of("layout.tp"),
            )
