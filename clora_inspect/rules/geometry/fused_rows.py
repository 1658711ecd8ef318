"""CL2, geometry: rows of a fused linear that go to the wrong canonical part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Needs, Rule
from clora_inspect.rules.linears import Kind, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class GQASplitMismatch(Rule):
    """Megatron-Bridge lays q, k and v out by the head counts of all ranks: wrong rows where tp is
    larger than the key-value groups.

    Shapes are right and the loss goes down, but a later token changes what an earlier one gets, and
    the exported adapter is another one.

    Bad: Qwen3-30B-A3B (4 groups) with tp = 8, trained by Megatron-Bridge.
    Good: tp = 4
    """

    code = "CL203"
    name = "gqa-split-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, tp = job.reference, job.plan.layout.tp
        groups = job.config.get("num_query_groups")
        split = [one for one in job.adapted if one.part in ("q", "k", "v")]
        if reference and Fault.GLOBAL_HEAD_COUNTS in reference.faults and groups and groups < tp and split:
            yield self.found(
                f"{groups} key-value groups and tp = {tp}: {reference.label} gives the q, k and v adapters the wrong rows, silently",
                fix=f"use tp <= {groups}, or train with clora",
                details=places(split),
                location=job.location_of("layout.tp"),
            )


class GatedSplitMismatch(Rule):
    """Megatron-Bridge cuts the fc1 of an MLP without a gate in two halves, called gate and up, that
    mean nothing.

    The forward runs. At export both halves go to the same tensor, and merging fails.

    Bad: the default targets on Nemotron (squared ReLU, no gate), trained by Megatron-Bridge.
    Good: targets without `linear_fc1_gate` and `linear_fc1_up`, or another implementation.
    """

    code = "CL204"
    name = "gated-split-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference = job.reference
        hit = [one for one in job.adapted if one.last_name == "linear_fc1" and one.kind is not Kind.EXPERTS]
        if reference and Fault.SPLITS_UNGATED in reference.faults and not job.is_gated and hit and job.config:
            yield self.found(
                f"the MLP has no gate: {reference.label} splits its linear_fc1 in two halves that mean nothing",
                fix="leave linear_fc1_gate and linear_fc1_up out, or train with clora",
                details=places(hit),
                location=job.location_of("lora.target_modules"),
            )


class DeltaShapeMismatch(Rule):
    """The delta of an adapter has not the shape of its linear's output. A proof finds it, by
    running the model.

    Bad: an adapter whose q, k and v have fewer rows than `linear_qkv`.
    Good: `clora-inspect verify JOB` passes.
    """

    code = "CL205"
    name = "delta-shape-mismatch"
    severity = Severity.ERROR
    needs = Needs.FORWARD


class OutputGateMismatch(Rule):
    """The attention has an output gate, which Megatron-Bridge does not count: its q, k and v
    adapters give too few rows.

    The forward fails with a size mismatch, after the whole model was loaded.

    Bad: Qwen3-Next with q, k and v targeted, trained by Megatron-Bridge.
    Good: targets without q, k and v, or another implementation.
    """

    code = "CL206"
    name = "output-gate-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference = job.reference
        split = [one for one in job.adapted if one.part in ("q", "k", "v")]
        if not (reference and Fault.NO_OUTPUT_GATE in reference.faults):
            return
        if job.config.get("attention_output_gate") and split:
            rows = sum(placement.b_global_shape[-2] for one, placement in job.placements if one.path == split[0].path)
            gate = job.config.get("num_attention_heads", 0) * job.config.get("kv_channels", 0)
            yield self.found(
                f"linear_qkv holds an output gate: it has {rows:,} rows, and {reference.label} adapts {rows - gate:,} of them",
                fix="leave q, k and v out, or train with clora",
                details=places(split),
                location=job.location_of("lora.target_modules"),
            )
