"""CL2, geometry: rows of a fused linear that are sized or ordered wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.base import Needs, Rule
from clora_inspect.rules.linears import places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class GQASplitMismatch(Rule):
    """Megatron-Bridge gives the q, k and v adapters the wrong rows where tp is larger than the
    number of key-value groups.

    It orders the rows by the head counts of the whole model, although the rank holds only some of
    the heads. Shapes are right and the loss goes down, but later tokens change the output for
    earlier ones, and the exported adapter computes something else.

    Bad: Qwen3-30B-A3B (4 groups) with tp = 8, trained by Megatron-Bridge.
    Good: tp = 4
    """

    code = "CL203"
    name = "gqa-split-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, tp = job.reference_with(Fault.GROUPS_BELOW_TP), job.plan.layout.tp
        groups = job.config.get("num_query_groups")
        split = job.adapted_parts("q", "k", "v")
        if reference and groups and groups < tp and split:
            yield self.found(
                f"{groups} key-value groups and tp = {tp}: {reference.label} gives the q, k and v adapters the wrong "
                "rows, silently",
                fix=f"use tp <= {groups}, or train with clora",
                details=places(split),
                location=job.location_of("layout.tp"),
            )


class GatedSplitMismatch(Rule):
    """Megatron-Bridge cuts the fc1 of an MLP without a gate in two halves and calls them gate and
    up. They mean nothing.

    The forward runs. At export both halves get the same name, and merging fails.

    Bad: the default targets on Nemotron (squared ReLU, no gate), trained by Megatron-Bridge.
    Good: targets without `linear_fc1_gate` and `linear_fc1_up`, or another implementation.
    """

    code = "CL204"
    name = "gated-split-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference = job.reference_with(Fault.SPLITS_UNGATED)
        hit = [one for one in job.adapted if one.last_name == "linear_fc1" and one.place is not Place.EXPERTS]
        # A model made by a function may have no config that tells whether its MLPs have a gate.
        if reference and hit and job.config and not job.is_gated:
            yield self.found(
                f"the MLP has no gate: {reference.label} splits its linear_fc1 in two halves that mean nothing",
                fix="leave linear_fc1_gate and linear_fc1_up out, or train with clora",
                details=places(hit),
                location=job.location_of("lora.target_modules"),
            )


class DeltaShapeMismatch(Rule):
    """The delta of an adapter does not have the shape of its linear's output. A proof finds this by
    running the model.

    Bad: an adapter whose q, k and v have fewer rows than `linear_qkv`.
    Good: `clora-inspect verify JOB` passes.
    """

    code = "CL205"
    name = "delta-shape-mismatch"
    severity = Severity.ERROR
    needs = Needs.FORWARD


class OutputGateMismatch(Rule):
    """The attention has an output gate that Megatron-Bridge does not count, so that its q, k and v
    adapters have too few rows.

    The forward fails with a size mismatch after the whole model was loaded.

    Bad: Qwen3-Next with q, k and v targeted, trained by Megatron-Bridge.
    Good: targets without q, k and v, or another implementation.
    """

    code = "CL206"
    name = "output-gate-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference = job.reference_with(Fault.NO_OUTPUT_GATE)
        split = job.adapted_parts("q", "k", "v")
        if reference and split and job.config.get("attention_output_gate"):
            rows = sum(placement.b_global_shape[-2] for one, placement in job.placements if one.path == split[0].path)
            # megatron-core makes the query part twice as large: one row of gate for each of query.
            gate = job.config.get("num_attention_heads", 0) * job.config.get("kv_channels", 0)
            theirs = rows if job.plan.planned_by == "megatron-bridge" else rows - gate
            yield self.found(
                f"linear_qkv holds an output gate: it has {theirs + gate:,} rows, and {reference.label} adapts "
                f"{theirs:,} of them",
                fix="leave q, k and v out, or train with clora",
                details=places(split),
                location=job.location_of("lora.target_modules"),
            )
