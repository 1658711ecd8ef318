"""CL4, surgery: settings under which adapters cannot learn, or the base changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Needs, Rule, RuleSettings
from clora_inspect.rules.linears import places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class MovingExpertBias(Rule):
    """The router's expert bias keeps changing in training although the base is frozen, and no
    adapter checkpoint holds it.

    With `moe_router_enable_expert_bias` megatron-core updates the bias after every training step,
    without an optimizer or a gradient. The served model then sends tokens to other experts than the
    trained one.

    Bad: an adapter for DeepSeek-V3, trained with the update rate of the model's config.
    Good: `moe_router_bias_update_rate = 0`
    """

    code = "CL410"
    name = "moving-expert-bias"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        # The config of a plan leaves defaults out; 1e-3 is megatron-core's.
        rate = job.config.get("moe_router_bias_update_rate", 1e-3)
        if job.config.get("moe_router_enable_expert_bias") and rate and job.adapted:
            yield self.found(
                f"moe_router_enable_expert_bias is on: the expert bias moves by {rate:g} a step although the base is "
                "frozen, and is not saved with the adapters",
                fix="--set model.moe_router_bias_update_rate=0, here and in training",
                location=job.location_of("model.moe_router_enable_expert_bias"),
            )


class ClippedBase(Rule):
    """`qk_clip` multiplies the weights of the attention's query and key projections, in place, when
    a logit grows too large: the frozen base changes, and no adapter checkpoint holds it.

    It multiplies the base's weight and not the adapter's product, so that it does not even clip
    the logit as it means to. An adapter that is loaded on the original base computes something
    else than the trained model. clora refuses to adapt such a model for training.

    Bad: `qk_clip = true` in a run that trains adapters.
    Good: `qk_clip = false`; `log_max_attention_logit = true` shows the logits all the same.
    """

    code = "CL419"
    name = "clipped-base"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.config.get("qk_clip") and job.adapted:
            # 100 is megatron-core's default, which the config of a plan leaves out.
            threshold = job.config.get("qk_clip_threshold", 100)
            yield self.found(
                f"qk_clip is on: where an attention logit is above {threshold:g}, it scales the frozen weights of "
                "query and key in place, and the adapters' checkpoint does not hold that",
                fix="--set model.qk_clip=false, here and in training",
                location=job.location_of("model.qk_clip"),
            )


@dataclass(frozen=True)
class _OwnLoss:
    """Modules that learn from a loss of their own, and from no other."""

    inside: str
    """Part of their paths."""
    weight: str
    """The model's field with the weight of the loss."""
    default: float
    """The field's value in a config that leaves it out."""
    why: str


_OWN_LOSSES = (
    _OwnLoss(".indexer.", "dsa_indexer_loss_coeff", 0.0, "the indexer only chooses the keys that attention sees"),
    _OwnLoss("mtp.", "mtp_loss_scaling_factor", 0.1, "the prediction layers' output is used for their loss only"),
)


class NoGradient(Rule):
    """No gradient reaches an adapter, because the only loss that its module learns from is off.

    Sparse attention's indexer chooses keys, and a choice has no gradient: megatron-core trains it
    by a loss of its own. The output of the layers that predict further tokens is used for their
    loss only. With a weight of zero these adapters stay as they began, and take memory all the
    same.

    Bad: `target_modules = ["linear_wq_b"]` with `dsa_indexer_loss_coeff = 0`
    Good: `exclude_modules = ["*.indexer.*", "output_layer"]`
    """

    code = "CL422"
    name = "no-gradient"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        for loss in _OWN_LOSSES:
            adapted = [one for one in job.adapted if loss.inside in one.local_path]
            if adapted and not job.config.get(loss.weight, loss.default):
                where = places(adapted)
                yield self.found(
                    f"no gradient reaches the adapters of {', '.join(where)}: {loss.why}, and {loss.weight} is 0",
                    fix=f"do not adapt them, or train with --set model.{loss.weight}=WEIGHT, here and in training",
                    where=where[0],
                    location=job.location_of(f"model.{loss.weight}"),
                )


class DeadInit(Rule):
    """A and B both start at zero. Every gradient is then zero for ever, and the run learns nothing.
    clora refuses such a LoRA.

    Bad: `lora_A_init_method = "zero"`, `lora_B_init_method = "zero"`
    Good: `lora_A_init_method = "xavier"`
    """

    code = "CL412"
    name = "dead-init"
    severity = Severity.ERROR
    needs = Needs.BUILD


class PerturbedStart(Rule):
    """B does not start at zero, so that the adapted model differs from the base model before the
    first step of training.

    Bad: `lora_B_init_method = "normal"` without a training method that needs it.
    Good: `lora_B_init_method = "zero"`
    """

    code = "CL413"
    name = "perturbed-start"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        method = job.lora.lora_B_init_method
        # With A = 0 the product B A is zero as well, and only the two change places.
        if method != "zero" and job.lora.lora_A_init_method != "zero":
            yield self.found(
                f'lora_B_init_method = "{method}": training starts from a model that is not the base',
                fix='set lora_B_init_method = "zero"',
                location=job.location_of("lora.lora_B_init_method"),
            )


class DropoutSettings(RuleSettings, frozen=True, kw_only=True):
    largest: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Largest dropout that is usual."""


class HighDropout(Rule):
    """The dropout inside the adapters is larger than usual. At a small rank it removes most of what
    they could learn.

    Bad: `dropout = 0.9`
    Good: `dropout = 0.05`
    """

    code = "CL414"
    name = "high-dropout"
    severity = Severity.WARNING
    settings = DropoutSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        largest = self.settings_for(job, DropoutSettings).largest
        dropout = job.lora.dropout
        if dropout > largest:
            yield self.found(
                f"dropout = {dropout:g} is larger than {largest:g}",
                fix="usual: 0 to 0.1",
                location=job.location_of("lora.dropout"),
            )
