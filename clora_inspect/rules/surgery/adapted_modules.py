"""CL4, surgery: modules that should not be adapted, adapters that cannot learn, and what trains
that should not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import Reason
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.module_path import global_path
from clora_inspect.rules.base import Rule, RuleSettings
from clora_inspect.rules.linears import Kind, Linear, counted, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob

_BYPASSING = "TEFusedMLP"
"""The MLP of megatron-core that reads the weights of its linears and never calls them."""


class SurgeryRule(Rule):
    """What the rules of this family have in common."""

    family = "surgery"


class TiedWeightAdapted(SurgeryRule):
    """The output layer is adapted and its weight is the embedding's: the adapter changes one use of
    it and not the other.

    A merged delta changes both, so the merged model is another one than the trained.

    Bad: `output_layer` targeted on a model with `share_embeddings_and_output_weights`.
    Good: the output layer left out.
    """

    code = "CL404"
    name = "tied-weight-adapted"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        hit = [one for one in job.adapted if one.kind is Kind.OUTPUT]
        if job.config.get("share_embeddings_and_output_weights") and hit:
            target = hit[0].placement.target if hit[0].placement else None
            yield self.found(
                "output_layer is adapted and shares its weight with the embedding: merging would change the embedding as well",
                fix="leave output_layer out",
                where="output_layer",
                target=target,
                location=job.location_of_target(target) if target else job.location_of("lora.target_modules"),
            )


class UnsupportedModule(SurgeryRule):
    """A target hits a module that has no LoRA form, or is a string that can never be right. The job
    cannot be planned.

    Bad: `target_modules = ["word_embeddings"]`, or the fused `linear_qkv`.
    Good: `target_modules = ["linear_q", "linear_k", "linear_v"]`
    """

    code = "CL405"
    name = "unsupported-module"
    severity = Severity.ERROR
    needs = "build"


class OutputLayerAdapted(SurgeryRule):
    """The output layer is adapted: B has a row for every word, and many serving engines do not load
    an adapter there.

    Bad: `target_modules = []`, which means all linears, without a second look.
    Good: `exclude_modules = ["output_layer"]`
    """

    code = "CL408"
    name = "output-layer-adapted"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        hit = [(one, placement) for one, placement in job.placements if one.kind is Kind.OUTPUT]
        if hit and not job.config.get("share_embeddings_and_output_weights"):
            placement = hit[0][1]
            yield self.found(
                f"output_layer is adapted: {placement.model_params:,} parameters, {placement.b_global_shape[-2]:,} rows in B",
                fix="leave output_layer out, unless the vocabulary changes",
                where="output_layer",
                target=placement.target,
                location=job.location_of_target(placement.target)
                if placement.target
                else job.location_of("lora.target_modules"),
            )


class RouterAdapted(SurgeryRule):
    """The router is adapted: a small change of its logits sends tokens to other experts, and most
    engines cannot load it.

    Bad: `target_modules = ["router"]` for an adapter that will be served unmerged.
    Good: the router left out; or meant, and allowed with a reason.
    """

    code = "CL409"
    name = "router-adapted"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of router, folded over layers."""
        hit = [one for one in job.adapted if one.kind is Kind.ROUTER]
        for place in places(hit):
            yield self.found(
                f"the router is adapted ({place}): tokens will go to other experts than in the base model",
                fix="leave router out, unless routing is what should change",
                where=place,
                location=job.location_of("lora.target_modules"),
            )


class MovingExpertBias(SurgeryRule):
    """The router's expert bias goes on moving although the base is frozen, and is in no adapter
    checkpoint.

    With `moe_router_enable_expert_bias` megatron-core updates the bias after every step of
    training, with no optimizer and no gradient. The served model then routes otherwise than the
    trained one.

    Bad: an adapter for DeepSeek-V3, trained with the config's own update rate.
    Good: `moe_router_bias_update_rate = 0`
    """

    code = "CL410"
    name = "moving-expert-bias"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        rate = job.config.get("moe_router_bias_update_rate", 1e-3)
        if job.config.get("moe_router_enable_expert_bias") and rate and job.adapted:
            yield self.found(
                f"moe_router_enable_expert_bias is on: the expert bias moves by {rate:g} a step although the base is frozen, and is not saved "
                "with the adapters",
                fix="--set model.moe_router_bias_update_rate=0, here and in training",
                location=job.location_of("model.moe_router_enable_expert_bias"),
            )


class DeadRecompute(SurgeryRule):
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


class DeadInit(SurgeryRule):
    """A and B both start at zero: every gradient is zero for ever, and the run learns nothing. Such
    a LoRA is refused.

    Bad: `lora_A_init_method = "zero"`, `lora_B_init_method = "zero"`
    Good: `lora_A_init_method = "xavier"`
    """

    code = "CL412"
    name = "dead-init"
    severity = Severity.ERROR
    needs = "build"


class PerturbedStart(SurgeryRule):
    """B does not start at zero, so the adapted model is not the base model when training begins.

    Bad: `lora_B_init_method = "normal"` without a method that wants it.
    Good: `lora_B_init_method = "zero"`
    """

    code = "CL413"
    name = "perturbed-start"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        lora = job.lora
        if lora["lora_B_init_method"] != "zero" and lora["lora_A_init_method"] != "zero":
            yield self.found(
                f'lora_B_init_method = "{lora["lora_B_init_method"]}": training starts from a model that is not the base',
                fix='set lora_B_init_method = "zero"',
                location=job.location_of("lora.lora_B_init_method"),
            )


class DropoutSettings(RuleSettings, frozen=True, kw_only=True):
    """Settings of CL414."""

    largest: float = 0.3
    """The largest dropout that is usual."""


class HighDropout(SurgeryRule):
    """The dropout inside the adapters is larger than anybody uses. At small ranks it drops most of
    what they could learn.

    Bad: `dropout = 0.9`
    Good: `dropout = 0.05`
    """

    code = "CL414"
    name = "high-dropout"
    severity = Severity.WARNING
    settings = DropoutSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        largest = self.settings_for(job, DropoutSettings).largest
        dropout = job.lora["dropout"]
        if dropout > largest:
            yield self.found(
                f"dropout = {dropout:g} is larger than {largest:g}",
                fix="usual: 0 to 0.1",
                location=job.location_of("lora.dropout"),
            )


class ExcludeUnsupported(SurgeryRule):
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
        reference, excluded = job.reference, job.lora["exclude_modules"]
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


class BypassedLinears(SurgeryRule):
    """The MLP is a fused one that reads the weights of its linears and never calls them: an adapter
    there would be ignored.

    Surgery refuses it. The model's builder decides it, with `use_transformer_engine_op_fuser`.

    Bad: `use_transformer_engine_op_fuser = true` with MLP targets.
    Good: `use_transformer_engine_op_fuser = false`
    """

    code = "CL416"
    name = "bypassed-linears"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of module, folded over layers."""
        fused = {
            (ranks.pp, skip.chunk, skip.module): global_path(skip.module, skip.global_layer)
            for ranks in job.plan.rank_classes
            for skip in ranks.skipped
            if skip.class_name == _BYPASSING and skip.reason is Reason.NO_PARAMETERS
        }
        hit = [one for one in job.adapted if (one.ranks.pp, one.chunk, one.local_path.rpartition(".")[0]) in fused]
        for place in places(hit):
            yield self.found(
                f"{place} is in a {_BYPASSING}, which never calls its linears: the adapter would be ignored",
                fix="build the model with use_transformer_engine_op_fuser = false",
                where=place,
                location=job.location_of("model"),
            )


class FastPaths(SurgeryRule):
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


class UnevenLayers(SurgeryRule):
    """Some layers have an adapter at a linear and others, which have the same linear, do not: a
    pattern with numbers picks them.

    Bad: `target_modules = ["*.layers.{0..14}.*.linear_proj"]` where all sixteen layers were meant.
    Good: `target_modules = ["linear_proj"]`
    """

    code = "CL418"
    name = "uneven-layers"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of linear that some layers have adapted and others not, by the
        number in a pattern.
        """
        alike: dict[tuple[str, str | None], tuple[list[Linear], list[Linear]]] = {}
        for linear in job.linears:
            if linear.layer is not None:
                key = (linear.path.split(".", 3)[-1], linear.part)
                alike.setdefault(key, ([], []))[0 if linear.placement else 1].append(linear)
        for have, lack in alike.values():
            if have and lack:
                yield self.found(
                    f"{places(have)[0]} is adapted and {places(lack)[0]} is not",
                    fix="nothing, if the numbers in the targets mean it",
                    where=places(have)[0],
                    location=job.location_of("lora.target_modules"),
                )


RULES: tuple[type[Rule], ...] = (
    TiedWeightAdapted,
    UnsupportedModule,
    OutputLayerAdapted,
    RouterAdapted,
    MovingExpertBias,
    DeadRecompute,
    DeadInit,
    PerturbedStart,
    HighDropout,
    ExcludeUnsupported,
    BypassedLinears,
    FastPaths,
    UnevenLayers,
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
