"""CL1, targeting: what the targets reach, and what stays without an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from clora.fused import FUSED
from clora.patterns import CANONICAL_OF_HF, hf_hint
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.job.towers import below
from clora_inspect.rules.base import Rule, RuleSettings
from clora_inspect.rules.exportable import is_exportable
from clora_inspect.rules.linears import Linear, by_module, counted, module_places, places
from clora_inspect.rules.reference import Fault
from clora_inspect.rules.targeting.additions import to_adapt, written_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.job.towers import Towers
    from clora_inspect.rules.planned_job import PlannedJob


class PartialFused(Rule):
    """Only some canonical parts of a fused linear are adapted: q and v without k, or only one of
    gate and up.

    This is the textbook recipe, and it works in clora: the other parts add nothing. In
    Megatron-Bridge the forward fails with `'NoneType' object is not callable`, and saving a
    checkpoint fails too, so that it is an error for a job that Megatron-Bridge will train. Builds
    after August 2026 have the forward mended.

    Bad: `target_modules = ["linear_fc1_up"]` where gate was meant as well.
    Good: `target_modules = ["linear_fc1_gate", "linear_fc1_up"]`
    """

    code = "CL104"
    name = "partial-fused"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        crashing, unsaved = job.reference_with(Fault.PARTIAL_CRASHES), job.reference_with(Fault.PARTIAL_UNSAVED)
        breaking = crashing or unsaved
        where = "its forward" if crashing else "its checkpoint"
        alike: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[Linear]] = {}
        for module in by_module(job.linears):
            have = tuple(one.part for one in module if one.placement and one.part)
            lack = tuple(one.part for one in module if not one.placement and one.part)
            if have and lack:
                alike.setdefault((module[0].last_name, have, lack), []).extend(module)
        for (fused, have, lack), linears in alike.items():
            unadapted = [one for one in linears if not one.placement]
            for place in module_places(linears):
                yield self.found(
                    f"{' and '.join(have)} of {fused} {'is' if len(have) == 1 else 'are'} adapted, "
                    f"{' and '.join(lack)} {'is' if len(lack) == 1 else 'are'} not ({place})"
                    + (f": {breaking.label} fails in {where}" if breaking else ""),
                    severity=Severity.ERROR if breaking else Severity.INFO,
                    fix=to_adapt(job, "for all of it", unadapted, [FUSED[fused][part] for part in lack]),
                    where=place,
                    location=job.location_of(f"lora.{written_list(job)}"),
                )


class CoverageSettings(RuleSettings, frozen=True, kw_only=True):
    minimum_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Smallest share of the linears' parameters for which a place without adapters is reported."""
    minimum_coverage: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Smallest share of the decoder's linears (0 to 1) that must be adapted; None for any."""


class LowCoverage(Rule):
    """The linears of one place hold much of the model, and none of them has an adapter. Places are
    attention, dense MLP, routed and shared experts.

    The loss still goes down, but less. This is a warning where the default list does not reach the
    place, and a note where you wrote the targets. With `minimum-coverage` there is also a warning
    when too few of the decoder's linears are adapted.

    Bad: the default targets on a model whose experts have other names.
    Good: targets for every place that should learn.
    """

    code = "CL105"
    name = "low-coverage"
    severity = Severity.WARNING
    settings = CoverageSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if not job.adapted:
            return
        settings = self.settings_for(job, CoverageSettings)
        for place in (Place.ATTENTION, Place.MLP, Place.EXPERTS, Place.SHARED_EXPERTS):
            unadapted = _size_without_adapter(job, place, settings.minimum_share)
            if unadapted:
                yield self.found(
                    f"{place}{_of_language_model(job)}: {unadapted}",
                    severity=Severity.INFO if job.targets_written else Severity.WARNING,
                    fix=_proposal(job, place),
                    location=job.location_of(f"lora.{written_list(job)}"),
                )
        totals = job.plan.totals
        least = settings.minimum_coverage
        if least is not None and totals.linears and totals.adapted_linears < least * totals.linears:
            yield self.found(
                f"{totals.adapted_linears:,} of {totals.linears:,} linears of the decoder are adapted "
                f"({totals.adapted_linears / totals.linears:.0%}), and minimum-coverage is {least:.0%}",
                fix="see which modules are unmatched: clora-inspect plan JOB --only missed",
                location=job.location_of("lora.target_modules"),
            )


class OutsideDecoder(Rule):
    """Modules outside the decoder are adapted: multi-token-prediction layers, a vision or audio
    tower, a projector.

    A bare name selects every module of that name, wherever it stands. Serving engines drop those
    blocks or cannot load adapters for them, and a frozen tower still gets trainable adapters.

    Bad: `target_modules = ["linear_proj"]` on a model with multi-token prediction.
    Good: `target_modules = ["decoder.*.linear_proj"]`
    """

    code = "CL106"
    name = "outside-decoder"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        outside: dict[str, list[Linear]] = {}
        for linear in job.adapted_in(Place.MTP, Place.OUTSIDE):
            outside.setdefault(_block_outside(linear, job.towers), []).append(linear)
        for head, linears in outside.items():
            # A target that names the block shows that it is meant.
            if any(head.rpartition(".")[2] in target.split(".") for target in job.targets):
                continue
            yield self.found(
                f"{counted(len(linears), 'adapter')} in {head}, outside the decoder",
                fix=_to_keep_to_the_decoder(job, head, linears),
                details=places(linears),
                where=f"{head}.*",
                location=job.location_of("lora.target_modules"),
            )


def _block_outside(linear: Linear, towers: Towers) -> str:
    """Return the path of the tower that holds `linear`, or of the block of a language model."""
    tower = linear.tower
    if tower.path and not towers.is_main(tower):
        return tower.path
    inside = linear.local_path.removeprefix(f"{tower.path}.") if tower.path else linear.local_path
    return below(tower.path, inside.partition(".")[0])


def _to_keep_to_the_decoder(job: PlannedJob, head: str, linears: Iterable[Linear]) -> str:
    if not job.targets:
        return f"to keep to the decoder add to exclude_modules: {head}.*"
    names = _bare_targets(linears)
    # Patterns are given only where they were tried and select something.
    blocks = dict.fromkeys(target.rpartition(".*.")[0] for target in job.decoder_targets(names))
    patterns = [f"{block}.*.NAME" for block in blocks if block]
    if not patterns:
        return f"to keep to the decoder leave out: {', '.join(names)}"
    return f"to keep to the decoder write patterns: {', '.join(patterns)}"


class DefaultsInForce(Rule):
    """The job has no `target_modules`, so that the default list decides. Default lists differ
    between frameworks and releases.

    Bad: a job without `target_modules`, moved from a framework that adapts `linear_qkv` alone by
    default.
    Good: the list written out in the configuration.
    """

    code = "CL108"
    name = "defaults-in-force"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if not job.targets_written and job.targets:
            yield self.found(
                f"target_modules is not written: the default list decides ({', '.join(job.targets)})",
                fix="write the list that you mean",
                location=job.location_of("lora"),
            )


class HFName(Rule):
    """A Hugging Face name selects modules outside the decoder and none in it, because the decoder's
    linears have megatron-core's names.

    A vision tower that comes from Hugging Face has such names: a target like `q_proj` then adapts
    the tower and leaves the language model unadapted. A name that selects nothing at all is
    reported as CL101.

    Bad: `target_modules = ["q_proj", "v_proj"]` on a model with a Hugging Face vision tower.
    Good: `target_modules = ["linear_q", "linear_v"]`
    """

    code = "CL109"
    name = "hf-name"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        for target in job.targets:
            canonical = CANONICAL_OF_HF.get(target.rsplit(".", 1)[-1])
            if canonical is None:
                continue
            found = job.selected(target)
            if found and all(linear.place is Place.OUTSIDE for linear in found):
                yield self.found(
                    f'"{target}" selects {counted(len(found), "linear")} outside the decoder and none in it '
                    f"({hf_hint(target)})",
                    fix=f"for the decoder write: {', '.join(canonical)}",
                    details=places(found),
                    target=target,
                    location=job.location_of_target(target),
                )


class HybridSettings(RuleSettings, frozen=True, kw_only=True):
    minimum_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Smallest share of the layers or the linears' parameters for which a place is reported."""


class HybridLeftOut(Rule):
    """The Mamba or gated-delta-net layers of a hybrid model get no adapter, while other layers do.

    Most layers of a hybrid model are such layers. Their linears are called `in_proj` and
    `out_proj`, names that no list for transformers has.

    Bad: the default targets on Nemotron-H, which adapt the attention and MLP layers alone.
    Good: `in_proj` and `out_proj` in the list. An adapter of Mamba layers that will be exported can
    have `in_proj` alone.
    """

    code = "CL112"
    name = "hybrid-left-out"
    severity = Severity.WARNING
    settings = HybridSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        least = self.settings_for(job, HybridSettings).minimum_share
        for place in (Place.MAMBA, Place.DELTA_NET):
            unadapted = _size_without_adapter(job, place, least)
            if unadapted:
                yield self.found(
                    f"{place}{_of_language_model(job)}: {unadapted}",
                    fix=_proposal(job, place),
                    location=job.location_of(f"lora.{written_list(job)}"),
                )


_WHOLE_LAYERS = (Place.MAMBA, Place.DELTA_NET)
"""Places that a layer has instead of attention. They hold few parameters beside experts,
but nothing else in their layers mixes tokens.
"""


def _size_without_adapter(job: PlannedJob, place: Place, least: float) -> str | None:
    """Describe the size of the linears at `place` when none of them is adapted.

    Returns None when one is adapted, or when they hold less than the share `least` of the
    linears' parameters (for whole layers also: of the layers).
    """
    linears = [one for one in job.linears if one.place is place]
    if not linears or any(one.placement for one in linears):
        return None
    # The share is of the decoder's linears in the whole model, so that neither the other targets
    # nor the layout change it.
    decoder = [one for one in job.linears if one.place not in (Place.ROUTER, Place.MTP, Place.OUTPUT, Place.OUTSIDE)]
    share = sum(one.weight_params for one in linears) / max(sum(one.weight_params for one in decoder), 1)
    layers = {one.layer for one in linears}
    share_of_layers = len(layers) / len({one.layer for one in decoder if one.layer is not None} or {0})
    if share < least and (place not in _WHOLE_LAYERS or share_of_layers < least):
        return None
    return f"0 of {len(layers)} layers have an adapter, {share:.0%} of the parameters of the decoder's linears"


def _of_language_model(job: PlannedJob) -> str:
    return " of the language model" if job.towers.are_several else ""


def _proposal(job: PlannedJob, place: Place) -> str:
    """Say which bare targets select the linears at `place`, and which of these are not exported."""
    linears = [one for one in job.linears if one.place is place]
    names = _bare_targets(one for one in linears if is_exportable(job, one))
    others = [name for name in _bare_targets(linears) if name not in names]
    exportable = job.decoder_targets(names)
    if not others:
        return to_adapt(job, "to adapt them", linears, exportable)
    cannot = f"adapters of {', '.join(others)} cannot be {'served' if job.serve else 'exported'} unmerged"
    if not exportable:
        return f"none: {cannot}"
    leaving = [one for one in linears if is_exportable(job, one)]
    return f"{to_adapt(job, 'to adapt them', leaving, exportable)} ({cannot})"


def _bare_targets(linears: Iterable[Linear]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for one in linears for name in one.names})
