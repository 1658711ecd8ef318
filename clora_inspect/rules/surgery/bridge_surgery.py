"""CL4, surgery: what Megatron-Bridge gets wrong when it adapts a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import Kind, Linear, counted, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class DeadRecompute(Rule):
    """Adapters stand only inside recomputed pieces of the first stage: Megatron-Bridge trains none
    of them.

    A recomputed piece runs backward only when its input wants a gradient, and the output of a
    frozen embedding does not. The loss is finite, the gradient zero. (clora lets a gradient in.)

    Bad: MLP-only targets with `recompute_granularity = "selective"` of `mlp`, trained by
    Megatron-Bridge.
    Good: an attention target beside them, or no recomputation.
    """

    code = "CL411"
    name = "dead-recompute"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, config = job.reference, job.config
        if not (reference and Fault.RECOMPUTE in reference.faults):
            return
        if config.get("recompute_granularity") != "selective":
            return
        modules = set(config.get("recompute_modules") or ())
        first = [one for one in job.adapted if one.ranks.pp == 0]
        order = sorted(
            first, key=lambda one: (one.chunk, one.layer if one.layer is not None else -1, "mlp" in one.path.split("."))
        )
        dead: list[Linear] = []
        for linear in order:
            if not _is_recomputed(linear, modules):
                break
            dead.append(linear)
        if dead:
            yield self.found(
                f"{counted(len(dead), 'adapter')} of the first stage stand in recomputed pieces ({', '.join(sorted(modules))}) whose input wants "
                f"no gradient: {reference.label} trains none of them",
                fix="add an attention target in layer 0, drop the recomputation, or train with clora",
                details=places(dead),
                location=job.location_of("model.recompute_modules"),
            )


class ExcludeUnsupported(Rule):
    """`exclude_modules`, and an empty `target_modules`, do not work in Megatron-Bridge's canonical
    LoRA: it asserts, or adapts one kind alone.

    Bad: `target_modules = []`, `exclude_modules = ["output_layer"]`, trained by Megatron-Bridge.
    Good: the targets written out.
    """

    code = "CL415"
    name = "exclude-unsupported"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, excluded = job.reference, job.lora.exclude_modules
        if reference and Fault.EXCLUDE_CRASHES in reference.faults and (excluded or not job.targets):
            names = sorted({name.rsplit(".", 1)[-1] for one in job.adapted for name in one.names})
            yield self.found(
                f"{reference.label} "
                + (
                    "asserts that exclude_modules is empty"
                    if excluded
                    else "adapts only the first kind of linear it meets"
                ),
                fix=f"write the targets: {', '.join(names)}",
                location=job.location_of("lora.exclude_modules" if excluded else "lora.target_modules"),
            )


class FastPaths(Rule):
    """A fast path of megatron-core reads a linear's weight, or calls `backward_dw`, and
    Megatron-Bridge's wrappers have neither.

    It fails at the first step. (clora's adapted linears are still linears.)

    Bad: `delay_wgrad_compute`, `qk_clip` or `cache_mla_latents` with adapted linears, trained by
    Megatron-Bridge.
    Good: those switched off.
    """

    code = "CL417"
    name = "fast-paths"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each switch that is on."""
        reference = job.reference
        if not (reference and Fault.FAST_PATHS in reference.faults and job.adapted):
            return
        for switch in ("delay_wgrad_compute", "qk_clip", "cache_mla_latents"):
            if job.config.get(switch):
                yield self.found(
                    f"{switch} is on: it reaches into adapted linears, and the wrappers of {reference.label} lack what it needs",
                    fix=f"set {switch} = false, or train with clora",
                    location=job.location_of(f"model.{switch}"),
                )


def _is_recomputed(linear: Linear, modules: set[str]) -> bool:
    """Whether selective recomputation of `modules` runs this linear twice."""
    segments = linear.path.split(".")
    if linear.kind in (Kind.EXPERTS, Kind.ROUTER):
        return "moe" in modules
    if linear.kind is Kind.SHARED_EXPERTS:
        return bool(modules & {"moe", "shared_experts"})
    if linear.kind is Kind.MLP:
        return "mlp" in modules
    return "mla_up_proj" in modules and segments[-1] in ("linear_q_up_proj", "linear_kv_up_proj")
