"""CL4, surgery: what Megatron-Bridge gets wrong when it adapts a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import Linear, counted, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class DeadRecompute(Rule):
    """Megatron-Bridge does not train the adapters of the first stage that stand in recomputed
    pieces, up to the first adapter outside such a piece.

    A recomputed piece runs backward only when its input needs a gradient, and the output of a
    frozen embedding needs none. The loss is finite and the gradient zero. clora makes the input
    need a gradient.

    Bad: MLP targets only, with `recompute_granularity = "selective"` of `mlp`, trained by
    Megatron-Bridge.
    Good: an attention target too, or no recomputation.
    """

    code = "CL411"
    name = "dead-recompute"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, config = job.reference_with(Fault.RECOMPUTE), job.config
        if not reference or config.get("recompute_granularity") != "selective":
            return
        modules = set(config.get("recompute_modules") or ())
        dead: list[Linear] = []
        for linear in _first_stage_in_forward_order(job):
            # From the first adapter outside such a piece on, activations need a gradient.
            if not _is_recomputed(linear, modules):
                break
            dead.append(linear)
        if dead:
            yield self.found(
                f"{counted(len(dead), 'adapter')} of the first stage stand in recomputed pieces "
                f"({', '.join(sorted(modules))}) whose input needs no gradient: {reference.label} trains none of them",
                fix="add an attention target in layer 0, drop the recomputation, or train with clora",
                details=places(dead),
                location=job.location_of("model.recompute_modules"),
            )


class ExcludeUnsupported(Rule):
    """`exclude_modules` and an empty `target_modules` do not work in Megatron-Bridge's canonical
    LoRA: it fails an assertion, or adapts only one kind of linear.

    Bad: `target_modules = []`, `exclude_modules = ["output_layer"]`, trained by Megatron-Bridge.
    Good: the targets written out.
    """

    code = "CL415"
    name = "exclude-unsupported"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        excluded = job.lora.exclude_modules
        reference = job.reference_with(Fault.EXCLUDE_CRASHES if excluded else Fault.NO_TARGET_IS_ONE_KIND)
        if reference and (excluded or not job.targets):
            what = (
                "asserts that exclude_modules is empty" if excluded else "adapts only the first kind of linear it meets"
            )
            names = sorted({name.rsplit(".", 1)[-1] for one in job.adapted for name in one.names})
            yield self.found(
                f"{reference.label} {what}",
                fix=f"write the targets: {', '.join(names)}",
                location=job.location_of("lora.exclude_modules" if excluded else "lora.target_modules"),
            )


class FastPaths(Rule):
    """A fast path of megatron-core reads a linear's weight or calls `backward_dw`, and
    Megatron-Bridge's wrappers do not have it, or have another.

    The run fails when it gets there. From 0.6 on, the wrappers of latent attention's linears have a
    weight, which is made anew each time it is read: `qk_clip` scales it, and nothing is clipped.
    clora's adapted linears are subclasses of the originals and have both, which helps with
    `delay_wgrad_compute`. The other two reach past any adapter to the weight (CL419, CL326), so
    clora refuses them.

    Bad: `delay_wgrad_compute`, `qk_clip` or `cache_mla_latents` with adapted linears, trained by
    Megatron-Bridge.
    Good: those switched off.
    """

    code = "CL417"
    name = "fast-paths"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        for switch, fault, what in self._met(job):
            reference = job.reference_with(fault)
            if reference and job.config.get(switch):
                helps = switch == "delay_wgrad_compute"
                yield self.found(
                    f"{switch} is on: {what.format(reference.label)}",
                    fix=f"set {switch} = false" + (", or train with clora" if helps else ""),
                    location=job.location_of(f"model.{switch}"),
                )

    @staticmethod
    def _met(job: PlannedJob) -> Iterator[tuple[str, Fault, str]]:
        """Yield the switches whose path meets an adapted linear, each with the fault there."""
        names = {one.last_name for one in job.adapted}
        lacks = "it reads or calls what the wrappers of {} do not have"
        if names:
            yield "delay_wgrad_compute", Fault.DELAYED_GRADIENTS, lacks
        if names & {"linear_kv_up_proj", "linear_q_up_proj", "linear_q_proj"}:
            if job.reference_with(Fault.QK_CLIP_LOST):
                yield "qk_clip", Fault.QK_CLIP_LOST, "it scales a copy of the weights that {} adapts, and clips nothing"
            else:
                yield "qk_clip", Fault.QK_CLIP, lacks
            yield "cache_mla_latents", Fault.ABSORPTION, lacks
        elif "linear_qkv" in names:
            yield "qk_clip", Fault.QK_CLIP, lacks


def _first_stage_in_forward_order(job: PlannedJob) -> list[Linear]:
    """Sort the adapted linears of the first stage by when they run; in a layer the MLP is last."""
    first = [one for one in job.adapted if one.ranks.pp == 0]
    return sorted(
        first, key=lambda one: (one.chunk, one.layer if one.layer is not None else -1, "mlp" in one.path.split("."))
    )


def _is_recomputed(linear: Linear, modules: set[str]) -> bool:
    """Return whether selective recomputation of `modules` runs this linear twice."""
    # The names are megatron-core's values of `recompute_modules`. `core_attn`, `moe_act` and
    # `layernorm` are not here, because no linear is inside those pieces.
    if linear.place in (Place.EXPERTS, Place.ROUTER):
        return "moe" in modules
    if linear.place is Place.SHARED_EXPERTS:
        return bool(modules & {"moe", "shared_experts"})
    if linear.place is Place.MLP:
        return "mlp" in modules
    return "mla_up_proj" in modules and linear.last_name in ("linear_q_up_proj", "linear_kv_up_proj")
