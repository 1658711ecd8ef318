"""CL1, targeting: what the targets reach, and what they leave without an adapter."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.patterns import CANONICAL_OF_HF, hf_hint, matches
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule, RuleSettings
from clora_inspect.rules.linears import Kind, Linear, by_module, counted, module_places, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class PartialFused(Rule):
    """Only some canonical parts of a fused linear are adapted: q and v without k, or one of gate
    and up.

    That is the textbook recipe and works here: the other parts add nothing. In releases of
    Megatron-Bridge the forward raises `'NoneType' object is not callable`, which makes it an error
    for a job that it will train.

    Bad: `target_modules = ["linear_fc1_up"]` where gate was meant as well.
    Good: `target_modules = ["linear_fc1_gate", "linear_fc1_up"]`
    """

    code = "CL104"
    name = "partial-fused"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of module, folded over layers."""
        crashes = job.reference is not None and Fault.PARTIAL_CRASHES in job.reference.faults
        alike: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[Linear]] = {}
        for module in by_module(job.linears):
            have = tuple(one.part for one in module if one.placement and one.part)
            lack = tuple(one.part for one in module if not one.placement and one.part)
            if have and lack:
                alike.setdefault((module[0].last_name, have, lack), []).append(module[0])
        for (fused, have, lack), modules in alike.items():
            for place in module_places(modules):
                yield self.found(
                    f"{' and '.join(have)} of {fused} {'is' if len(have) == 1 else 'are'} adapted, {' and '.join(lack)} "
                    f"{'is' if len(lack) == 1 else 'are'} not ({place})"
                    + (f": {job.reference.label} fails in its forward" if crashes and job.reference else ""),
                    severity=Severity.ERROR if crashes else Severity.INFO,
                    fix=f"for all of it add: {', '.join(FUSED[fused][part] for part in lack)}",
                    where=place,
                    location=job.location_of("lora.target_modules"),
                )


class CoverageSettings(RuleSettings, frozen=True, kw_only=True):
    """Settings of CL105."""

    minimum_share: float = 0.1
    """A kind of linear is reported when it holds at least this share of the linears' parameters and
    has no adapter.
    """
    minimum_coverage: float | None = None
    """Least part of the decoder's linears (0 to 1) that must be adapted, whatever they hold."""


class LowCoverage(Rule):
    """A kind of linear that holds much of the model has no adapter at all: attention, dense MLP,
    routed or shared experts.

    The loss still goes down, only less. A warning where the default list does not reach the kind, a
    note where you wrote the targets. `minimum-coverage` makes too small a part of all the decoder's
    linears a warning.

    Bad: the default targets on a model whose experts have other names.
    Good: targets for every kind that should learn.
    """

    code = "CL105"
    name = "low-coverage"
    severity = Severity.WARNING
    settings = CoverageSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind, and one for the whole."""
        if not job.adapted:
            return
        settings = self.settings_for(job, CoverageSettings)
        for kind in (Kind.ATTENTION, Kind.MLP, Kind.EXPERTS, Kind.SHARED_EXPERTS):
            missed = missed_kind(job, kind, settings.minimum_share)
            if missed:
                yield self.found(
                    f"{kind}: {missed}",
                    severity=Severity.INFO if job.targets_written else Severity.WARNING,
                    fix=f"to adapt them add: {', '.join(_names_of_kind(job, kind))}",
                    location=job.location_of("lora.target_modules"),
                )
        totals = job.plan.totals
        least = settings.minimum_coverage
        if least is not None and totals.linears and totals.adapted_linears < least * totals.linears:
            yield self.found(
                f"{totals.adapted_linears:,} of {totals.linears:,} linears of the decoder are adapted "
                f"({totals.adapted_linears / totals.linears:.0%}), and minimum-coverage is {least:.0%}",
                fix="see what is missed: clora-inspect plan JOB --only missed",
                location=job.location_of("lora.target_modules"),
            )


class OutsideDecoder(Rule):
    """Adapters land outside the decoder: in multi-token-prediction layers, a vision or audio tower,
    a projector.

    A bare name selects wherever a module of that name stands. Serving engines drop those blocks or
    cannot load adapters for them, and a tower that is frozen still gets trainable adapters.

    Bad: `target_modules = ["linear_proj"]` on a model with multi-token prediction.
    Good: `target_modules = ["decoder.*.linear_proj"]`
    """

    code = "CL106"
    name = "outside-decoder"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each first segment of a path, unless a target names it."""
        outside: dict[str, list[Linear]] = {}
        for linear in job.adapted:
            if linear.kind in (Kind.MTP, Kind.OUTSIDE):
                outside.setdefault(linear.local_path.split(".")[0], []).append(linear)
        for head, linears in outside.items():
            if any(head in target.split(".") for target in job.targets):
                continue
            yield self.found(
                f"{counted(len(linears), 'adapter')} in {head}, outside the decoder",
                fix="to keep to the decoder write patterns: decoder.*.NAME",
                details=places(linears),
                where=f"{head}.*",
                location=job.location_of("lora.target_modules"),
            )


class DefaultsInForce(Rule):
    """No `target_modules` are written, so the default list decides; and defaults differ between
    frameworks and releases.

    Bad: a job without `target_modules`, moved from a framework that adapts `linear_qkv` alone by
    default.
    Good: the list written out in the configuration.
    """

    code = "CL108"
    name = "defaults-in-force"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        if not job.targets_written and job.targets:
            yield self.found(
                f"target_modules is not written: the default list decides ({', '.join(job.targets)})",
                fix="write the list that you mean",
                location=job.location_of("lora"),
            )


class HFName(Rule):
    """A Hugging Face name selects only modules outside the decoder, whose own linears have
    megatron-core's names.

    Where it selects nothing at all CL101 tells. But a tower that comes from Hugging Face has such
    names, and then a target like `q_proj` adapts the tower and leaves the language model alone.

    Bad: `target_modules = ["q_proj", "v_proj"]` on a model with a Hugging Face vision tower.
    Good: `target_modules = ["linear_q", "linear_v"]`
    """

    code = "CL109"
    name = "hf-name"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each target of that kind."""
        for target in dict.fromkeys(job.targets):
            if target.rsplit(".", 1)[-1] not in CANONICAL_OF_HF:
                continue
            found = job.selected(target)
            if found and all(linear.kind is Kind.OUTSIDE for linear in found):
                yield self.found(
                    f'"{target}" selects {counted(len(found), "linear")} outside the decoder and none in it ({hf_hint(target)})',
                    fix=f"for the decoder write: {', '.join(CANONICAL_OF_HF[target.rsplit('.', 1)[-1]])}",
                    details=places(found),
                    target=target,
                    location=job.location_of_target(target),
                )


class ShareSettings(RuleSettings, frozen=True, kw_only=True):
    """Settings of CL112."""

    minimum_share: float = 0.1
    """A kind is reported when it holds at least this share of the layers, or of the linears'
    parameters.
    """


class HybridLeftOut(Rule):
    """Mamba or gated-delta-net layers get no adapter while others do: most of a hybrid model's
    layers are such.

    Their linears are called `in_proj` and `out_proj`, which no list for transformers has.

    Bad: the default targets on Nemotron-H, which adapt the attention and MLP layers alone.
    Good: `in_proj` and `out_proj` in the list.
    """

    code = "CL112"
    name = "hybrid-left-out"
    severity = Severity.WARNING
    settings = ShareSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind."""
        least = self.settings_for(job, ShareSettings).minimum_share
        for kind in (Kind.MAMBA, Kind.DELTA_NET):
            missed = missed_kind(job, kind, least)
            if missed:
                yield self.found(
                    f"{kind}: {missed}",
                    fix=f"to adapt them add: {', '.join(_names_of_kind(job, kind))}",
                    location=job.location_of("lora.target_modules"),
                )


class WholeFC1(Rule):
    """Only up (or only gate) is targeted, and an fc1 that gets one adapter for both is adapted:
    gate (or up) is trained as well.

    Grouped experts and vision towers keep one adapter for the fused weight, here and in
    Megatron-Bridge.

    Bad: `target_modules = ["linear_fc1_up"]` on a model with grouped experts.
    Good: both names, or `moe_grouped_gemm = false` for adapters of their own.
    """

    code = "CL113"
    name = "whole-fc1"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of module and part."""
        alike: dict[str, list[Linear]] = {}
        for linear in job.adapted:
            if len(linear.names) != 2 or linear.part or linear.last_name != "linear_fc1":
                continue
            wanted = [name for name in linear.names if any(matches(target, name) for target in job.targets)]
            if len(wanted) == 1:
                alike.setdefault(wanted[0].rsplit("_", 1)[-1], []).append(linear)
        for part, linears in alike.items():
            other = {"up": "gate", "gate": "up"}[part]
            for place in places(linears):
                yield self.found(
                    f"{part} alone is targeted, and {place} is adapted as a whole: {other} is trained as well",
                    fix=f"say so: add linear_fc1_{other}",
                    where=place,
                    location=job.location_of("lora.target_modules"),
                )


_WHOLE_LAYERS = (Kind.MAMBA, Kind.DELTA_NET)
"""Kinds that stand in a layer instead of its attention: few parameters beside experts, and all that
mixes tokens there.
"""


def missed_kind(job: PlannedJob, kind: Kind, least: float) -> str | None:
    """Of a kind without any adapter, how much it is; None when it has one, or holds less than
    `least` of the linears' parameters.
    """
    linears = [one for one in job.linears if one.kind is kind]
    if not linears or any(one.placement for one in linears):
        return None
    share = sum(one.params for one in linears) / max(sum(one.params for one in job.linears), 1)
    layers = {one.layer for one in linears}
    of_layers = len(layers) / len({one.layer for one in job.linears if one.layer is not None} or {0})
    if share < least and (kind not in _WHOLE_LAYERS or of_layers < least):
        return None
    return f"0 of {len(layers)} layers have an adapter, {share:.0%} of the parameters of all linears"


def _names_of_kind(job: PlannedJob, kind: Kind) -> list[str]:
    names = Counter(name.rsplit(".", 1)[-1] for one in job.linears if one.kind is kind for name in one.names)
    return sorted(names)
