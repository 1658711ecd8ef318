"""CL3, parallel layout: routers that megatron-core builds and cannot train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob

_CHOICES = {
    "moe_router_score_function": ("softmax", "sigmoid"),
    "moe_token_drop_policy": ("probs", "position"),
}
"""Field of the config -> its values, where only the forward refuses others."""

_BALANCING = ("aux_loss", "seq_aux_loss", "global_aux_loss", "sinkhorn", "none")
"""The values of `moe_router_load_balancing_type`. Any other balances nothing, silently."""


class SinkhornWithLoss(Rule):
    """The router balances its experts with Sinkhorn's algorithm and has a load-balancing loss as
    well. megatron-core asserts in its forward that there is no such loss.

    Bad: `moe_router_load_balancing_type = "sinkhorn"` with `moe_aux_loss_coeff = 0.01`.
    Good: `moe_aux_loss_coeff = 0`
    """

    code = "CL322"
    name = "sinkhorn-with-loss"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        coefficient = job.config.get("moe_aux_loss_coeff", 0)
        sinkhorn = job.config.get("moe_router_load_balancing_type") == "sinkhorn"
        if job.modules_of("MoELayer") and sinkhorn and coefficient != 0:
            yield self.found(
                f"moe_router_load_balancing_type = sinkhorn with moe_aux_loss_coeff = {coefficient}: megatron-core's "
                "forward refuses the two",
                fix="set moe_aux_loss_coeff = 0, or another load balancing",
                location=job.location_of("model.moe_aux_loss_coeff"),
            )


class ProbabilitiesOnInput(Rule):
    """The router's probabilities are to be applied to the input of the experts, and a token goes to
    several experts. megatron-core asserts in its forward that it goes to one.

    Bad: `moe_apply_probs_on_input = true` with `moe_router_topk = 2`.
    Good: `moe_apply_probs_on_input = false`
    """

    code = "CL323"
    name = "probabilities-on-input"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        # The config of a plan leaves defaults out; 2 is megatron-core's.
        chosen = job.config.get("moe_router_topk", 2)
        if job.modules_of("MoELayer") and job.config.get("moe_apply_probs_on_input") and chosen != 1:
            yield self.found(
                f"moe_apply_probs_on_input is on with moe_router_topk = {chosen}: megatron-core's experts take it for "
                "one expert per token only",
                fix="set moe_apply_probs_on_input = false",
                location=job.location_of("model.moe_apply_probs_on_input"),
            )


class ForcedRouting(Rule):
    """Every token goes to random experts, other ones in each step: the setting is for benchmarks.

    Adapters that are trained so never see the experts that the router would choose.

    Bad: `moe_router_force_load_balancing = true`
    Good: `moe_router_force_load_balancing = false`
    """

    code = "CL324"
    name = "forced-routing"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.modules_of("MoELayer") and job.config.get("moe_router_force_load_balancing"):
            yield self.found(
                "moe_router_force_load_balancing is on: tokens go to random experts, other ones in each step",
                fix="set moe_router_force_load_balancing = false",
                location=job.location_of("model.moe_router_force_load_balancing"),
            )


class UnknownRouting(Rule):
    """A field of the router has a value that megatron-core does not know.

    Its config takes any text. The first forward raises for the score function and for the policy of
    dropped tokens; with an unknown load balancing the run goes on and balances nothing.

    Bad: `moe_router_score_function = "softmx"`
    Good: `moe_router_score_function = "softmax"`
    """

    code = "CL330"
    name = "unknown-routing"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if not job.modules_of("MoELayer"):
            return
        for name, choices in _CHOICES.items():
            value = job.config.get(name, choices[0])
            # Without a capacity no token is dropped, and nothing reads the policy.
            unread = name == "moe_token_drop_policy" and job.config.get("moe_expert_capacity_factor") is None
            if value not in choices and not unread:
                yield self.found(
                    f"{name} = {value}: megatron-core's first forward raises",
                    fix=f"use {' or '.join(choices)}",
                    location=job.location_of(f"model.{name}"),
                )
        written = job.config.get("moe_router_load_balancing_type", "aux_loss")
        unknown = [each for each in ([written] if isinstance(written, str) else written) if each not in _BALANCING]
        if unknown:
            yield self.found(
                f"moe_router_load_balancing_type = {', '.join(unknown)}: megatron-core knows no such load balancing, "
                "and balances nothing",
                fix=f"use {', '.join(_BALANCING[:-1])} or {_BALANCING[-1]}",
                severity=Severity.WARNING,
                location=job.location_of("model.moe_router_load_balancing_type"),
            )
