"""CL1, targeting: what the strings of `target_modules` and `exclude_modules` select, and what they
do not.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.patterns import CANONICAL_OF_HF, MLA_TARGETS, hf_hint, is_bare, matches, nearest
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.rules.base import Rule, RuleSettings
from clora_inspect.rules.linears import Kind, Linear, counted, places
from clora_inspect.rules.patterns import (
    has_expert_number,
    has_layer_number,
    has_regex_characters,
    reads_as_regex,
    selected,
    selected_by_global_number,
    selected_by_regex,
)
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class TargetingRule(Rule):
    """What the rules of this family have in common."""

    family = "targeting"


class UnmatchedTarget(TargetingRule):
    """A target selects no module on any rank: training would go on with fewer adapters than asked
    for.

    An error when you wrote the target, a note when it is one of the default list that this model
    has nothing for. A Hugging Face name is answered with megatron-core's name for the same weight.

    Bad: `target_modules = ["linear_fc1x"]`
    Good: `target_modules = ["linear_fc1_gate", "linear_fc1_up"]`
    """

    code = "CL101"
    name = "unmatched-target"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each target that selects nothing."""
        names = target_names(job)
        for target in job.plan.unmatched_targets:
            near = nearest(target, names)
            hint = hf_hint(target)
            yield self.found(
                f'"{target}" matches no module' + (f" ({hint})" if hint else ""),
                severity=Severity.ERROR if job.targets_written else Severity.INFO,
                fix=f"did you mean: {_counted(near, names)}"
                if near
                else f"targets that this model has: {_counted(names, names)}",
                target=target,
                location=job.location_of_target(target),
            )


class BridgePatternDiffers(TargetingRule):
    """A pattern selects other modules when Megatron-Bridge reads it, which takes every character
    but `*` for a regular expression.

    There a dot is any character, so that `*.layers.1.*` selects layer 1 and layers 10 to 19; and
    `{0..3}` is no range. Here a pattern means what it says. A note for a job that this
    implementation trains; an error for one that Megatron-Bridge will train.

    Bad: `target_modules = ["*.layers.1.*.linear_proj"]`, trained by Megatron-Bridge on 32 layers.
    Good: the whole path, `decoder.layers.1.self_attention.linear_proj`
    """

    code = "CL102"
    name = "bridge-pattern-differs"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each target that is read differently."""
        reference = job.reference
        if reference and Fault.REGEX_WILDCARDS not in reference.faults:
            return
        who = reference.label if reference else "Megatron-Bridge"
        for target in dict.fromkeys(job.targets):
            if is_bare(target):
                continue
            theirs, ours = selected_by_regex(target, job.linears), job.selected(target)
            if theirs is None or {one.at for one in theirs} == {one.at for one in ours}:
                continue
            extra = sorted({one.layer for one in theirs if one.layer is not None} - {one.layer for one in ours})
            more = f", layers {fold(layer for layer in extra if layer is not None)} besides" if extra else ""
            yield self.found(
                f'"{target}" selects {counted(len(ours), "linear")} here and {len(theirs):,} in {who}{more}',
                severity=Severity.ERROR if reference else Severity.INFO,
                fix="write whole paths, or bare names, which both read alike",
                details=places(one for one in theirs if one not in ours),
                target=target,
                location=job.location_of_target(target),
            )


class OverlappingTargets(TargetingRule):
    """Two targets select the same linear. The selection is their union, so this is at most one
    string too many.

    Megatron-Bridge takes the first target that matches a module and loses what the others add
    there: for a job that it will train, this is an error where something is lost.

    Bad: `target_modules = ["*.layers.0.*.linear_q", "linear_q"]`
    Good: `target_modules = ["linear_q"]`
    """

    code = "CL103"
    name = "overlapping-targets"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each pair that overlaps; for the reference one for each target that
        loses.
        """
        if job.reference and Fault.FIRST_MATCH_WINS in job.reference.faults:
            yield from self._lost(job)
            return
        chosen = {target: {one.at for one in job.selected(target)} for target in job.targets}
        for first, second in combinations(chosen, 2):
            both = chosen[first] & chosen[second]
            # Gate and up of an fc1 that is adapted as a whole are named by two targets, as they
            # should be.
            both -= {one.at for one in job.linears if len(one.names) > 1}
            if both:
                less = min((second, first), key=lambda target: len(chosen[target]))
                adds = " and adds nothing" if chosen[less] == both else ""
                yield self.found(
                    f'"{first}" and "{second}" both select {counted(len(both), "linear")}'
                    + (f': "{less}"{adds}' if adds else ""),
                    fix=f'remove "{less}"' if adds else None,
                    target=less,
                    location=job.location_of_target(less),
                )

    def _lost(self, job: PlannedJob) -> Iterator[Finding]:
        """Linears whose module an earlier target took without them."""
        lost: dict[str, list[Linear]] = {}
        for module in _by_module(job.linears):
            matching = [
                (_module_pattern(target), target, {one.at for one in selected(target, module)})
                for target in job.targets
            ]
            matching = [entry for entry in matching if entry[2]]
            if not matching:
                continue
            first = matching[0][0]
            taken = set().union(*(ats for pattern, _, ats in matching if pattern == first))
            for pattern, target, ats in matching:
                if pattern != first:
                    lost.setdefault(target, []).extend(one for one in module if one.at in ats - taken)
        for target, linears in lost.items():
            if linears:
                yield self.found(
                    f'"{target}" loses {counted(len(linears), "linear")}: Megatron-Bridge takes the first target that matches a module, '
                    "and an earlier one does",
                    severity=Severity.ERROR,
                    details=places(linears),
                    target=target,
                    fix="write targets that do not meet in one module, or train with clora",
                    location=job.location_of_target(target),
                )


class PartialFused(TargetingRule):
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
        for module in _by_module(job.linears):
            have = tuple(one.part for one in module if one.placement and one.part)
            lack = tuple(one.part for one in module if not one.placement and one.part)
            if have and lack:
                alike.setdefault((module[0].last_name, have, lack), []).append(module[0])
        for (fused, have, lack), modules in alike.items():
            for place in places_of_modules(modules):
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


class LowCoverage(TargetingRule):
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


class OutsideDecoder(TargetingRule):
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


class EmptyPlan(TargetingRule):
    """No module of the whole model gets an adapter: the run would train nothing, and its loss would
    not move.

    Bad: `target_modules = ["q_proj", "v_proj"]` on a Megatron model, whose modules have other
    names.
    Good: `target_modules = ["linear_q", "linear_v"]`
    """

    code = "CL107"
    name = "empty-plan"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        if job.adapted:
            return
        names = target_names(job)
        yield self.found(
            "no module gets an adapter: training would change nothing",
            fix=f"targets that this model has: {_counted(names, names)}"
            if names
            else "the model has no linear that LoRA can adapt",
            location=job.location_of("lora.target_modules"),
        )


class DefaultsInForce(TargetingRule):
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


class HFName(TargetingRule):
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


class LocalLayerNumber(TargetingRule):
    """A layer number in a pattern means another layer on each pipeline stage: modules are numbered
    from 0 on every stage and chunk.

    So with pp = 4 the pattern `*.layers.0.*` selects four layers of the model, and another set when
    pp changes.

    Bad: `target_modules = ["*.layers.0.*.linear_proj"]` with pp = 2
    Good: pp = 1; or a pattern without layer numbers.
    """

    code = "CL110"
    name = "local-layer-number"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each entry that selects other layers than it names."""
        if job.plan.layout.pp * job.plan.layout.vpp == 1:
            return
        for field in ("target_modules", "exclude_modules"):
            for entry in dict.fromkeys(job.lora[field]):
                if not has_layer_number(entry):
                    continue
                here = {one.layer for one in job.selected(entry) if one.layer is not None}
                meant = {one.layer for one in selected_by_global_number(entry, job.linears) if one.layer is not None}
                if here == meant:
                    continue
                yield self.found(
                    f'"{entry}" selects layers {fold(here) or "none"} of the model, because every stage and chunk numbers its layers '
                    f"from 0; by their numbers in the model it would be {fold(meant) or 'none'}",
                    fix="use a pattern without layer numbers, or pp = 1",
                    target=entry,
                    location=job.location_of_entry(field, entry),
                )


class LatentAttention(TargetingRule):
    """The model has multi-latent attention and no `linear_qkv`: q, k and v match nothing, and its
    own projections are not adapted.

    Bad: the default targets on DeepSeek-V3, which leave every input projection of the attention
    untrained.
    Good: `linear_q_down_proj`, `linear_q_up_proj`, `linear_kv_down_proj`, `linear_kv_up_proj` in
    the list.
    """

    code = "CL111"
    name = "latent-attention"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        asked = [target for target in job.targets if target in ("linear_q", "linear_k", "linear_v")]
        missing = [name for name in MLA_TARGETS if any(one.last_name == name for one in job.left)]
        adapted = any(one.last_name in MLA_TARGETS for one in job.adapted)
        if asked and missing and not adapted and set(asked) <= set(job.plan.unmatched_targets):
            missed = [one for one in job.left if one.last_name in missing]
            yield self.found(
                f"multi-latent attention has no linear_qkv: {', '.join(asked)} match nothing, and {counted(len(missed), 'input projection')} "
                "of the attention stay unadapted",
                fix=f"write: {', '.join(missing)}",
                details=places(missed),
                location=job.location_of("lora.target_modules"),
            )


class ShareSettings(RuleSettings, frozen=True, kw_only=True):
    """Settings of CL112."""

    minimum_share: float = 0.1
    """A kind is reported when it holds at least this share of the layers, or of the linears'
    parameters.
    """


class HybridLeftOut(TargetingRule):
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


class WholeFC1(TargetingRule):
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


class RegexCharacters(TargetingRule):
    """A target has characters of regular expressions, which stand for themselves here: only `*` and
    `{first..last}` are wildcards.

    Megatron-Bridge passes them on to Python's `re`, so the same string selects other modules there.

    Bad: `target_modules = ["*.layers.[0-3].*.linear_q"]`
    Good: `target_modules = ["*.layers.{0..3}.*.linear_q"]`
    """

    code = "CL115"
    name = "regex-characters"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each entry."""
        for field in ("target_modules", "exclude_modules"):
            for entry in dict.fromkeys(job.lora[field]):
                characters = has_regex_characters(entry)
                if characters:
                    broken = job.reference and not reads_as_regex(entry)
                    yield self.found(
                        f'"{entry}" has {" ".join(characters)}: only * and {{first..last}} are wildcards, everything else stands for itself'
                        + (", and Megatron-Bridge cannot compile it" if broken else ""),
                        fix="write {0..3} for a range, and one entry for each alternative",
                        target=entry,
                        location=job.location_of_entry(field, entry),
                    )


class UnmatchedExclusion(TargetingRule):
    """An entry of `exclude_modules` excludes nothing: what it should keep out is adapted.

    Bad: `exclude_modules = ["linear_prj"]`
    Good: `exclude_modules = ["linear_proj"]`
    """

    code = "CL116"
    name = "unmatched-exclusion"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each entry."""
        paths = {name for one in job.linears for name in (one.local_path, *one.names)}
        paths |= {skip.module for ranks in job.plan.rank_classes for skip in ranks.skipped}
        names = target_names(job)
        for entry in dict.fromkeys(job.lora["exclude_modules"]):
            if any(matches(entry, path) for path in paths):
                continue
            near = nearest(entry, names)
            yield self.found(
                f'"{entry}" of exclude_modules matches no module',
                fix=f"did you mean: {_counted(near, names)}" if near else "remove it",
                target=entry,
                location=job.location_of_entry("exclude_modules", entry),
            )


class CatchAll(TargetingRule):
    """A wildcard stands in the last name and hits a fused linear by its own name: Megatron-Bridge
    wraps it with no adapter inside.

    Its forward then fails with `'NoneType' object is not callable`. Here such a target selects the
    canonical parts that it matches.

    Bad: `target_modules = ["*.mlp.linear_fc*"]`, trained by Megatron-Bridge.
    Good: `target_modules = ["linear_fc1_gate", "linear_fc1_up", "linear_fc2"]`
    """

    code = "CL118"
    name = "catch-all"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each target."""
        for target in dict.fromkeys(job.targets):
            hit = [one for one in job.linears if one.last_name in FUSED and matches(target, one.local_path)]
            if "*" in target.rsplit(".", 1)[-1] and hit:
                yield self.found(
                    f'"{target}" hits {", ".join(sorted({one.last_name for one in hit}))} by its own name: Megatron-Bridge wraps it with no adapter, '
                    "and its forward fails",
                    fix=f"name the parts: {', '.join(sorted({name.rsplit('.', 1)[-1] for one in hit for name in one.names}))}",
                    details=places(hit),
                    target=target,
                    location=job.location_of_target(target),
                )


class LocalExpertNumber(TargetingRule):
    """An expert number in a pattern means another expert on each expert-parallel rank: experts are
    numbered from 0 on every rank.

    Bad: `target_modules = ["*.local_experts.0.linear_fc2"]` with ep = 4, which adapts four experts
    of each layer.
    Good: a pattern without expert numbers.
    """

    code = "CL120"
    name = "local-expert-number"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each entry."""
        ep = job.plan.layout.ep
        if ep == 1:
            return
        for field in ("target_modules", "exclude_modules"):
            for entry in dict.fromkeys(job.lora[field]):
                found = [one for one in job.selected(entry) if ".local_experts." in one.local_path]
                if has_expert_number(entry) and found:
                    yield self.found(
                        f'"{entry}" means another expert on each of the {ep} expert-parallel ranks, because every rank numbers its experts '
                        f"from 0: it selects {ep} times as many as it names",
                        fix="use a pattern without expert numbers, or ep = 1",
                        target=entry,
                        location=job.location_of_entry(field, entry),
                    )


_WHOLE_LAYERS = (Kind.MAMBA, Kind.DELTA_NET)
"""Kinds that stand in a layer instead of its attention: few parameters beside experts, and all that
mixes tokens there.
"""

RULES: tuple[type[Rule], ...] = (
    UnmatchedTarget,
    BridgePatternDiffers,
    OverlappingTargets,
    PartialFused,
    LowCoverage,
    OutsideDecoder,
    EmptyPlan,
    DefaultsInForce,
    HFName,
    LocalLayerNumber,
    LatentAttention,
    HybridLeftOut,
    WholeFC1,
    RegexCharacters,
    UnmatchedExclusion,
    CatchAll,
    LocalExpertNumber,
)


def always_found(job: PlannedJob) -> Iterator[Finding]:
    """What every plan says of its targets, whoever asks."""
    for rule in (UnmatchedTarget, EmptyPlan):
        yield from rule().check(job)


def target_names(job: PlannedJob) -> Counter[str]:
    """Bare targets that would select something, with the number of canonical linears each selects
    in the whole model.
    """
    return Counter({name: len(linears) for name, linears in job.by_last_name.items()})


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


def places_of_modules(linears: Iterable[Linear]) -> list[str]:
    """The modules of `linears` without their parts, folded over layers."""
    from clora_inspect.job.module_path import folded

    return [place for place, _ in folded(dict.fromkeys(one.path for one in linears))]


def _names_of_kind(job: PlannedJob, kind: Kind) -> list[str]:
    names = Counter(name.rsplit(".", 1)[-1] for one in job.linears if one.kind is kind for name in one.names)
    return sorted(names)


def _by_module(linears: Iterable[Linear]) -> list[list[Linear]]:
    """The linears of each module together."""
    modules: dict[tuple[int, int, str], list[Linear]] = {}
    for linear in linears:
        modules.setdefault((linear.ranks.pp, linear.chunk, linear.local_path), []).append(linear)
    return list(modules.values())


def _module_pattern(target: str) -> str:
    """What Megatron-Bridge keeps a target under: canonical targets of one fused linear share a
    pattern.
    """
    from clora.patterns import canonical_mapping

    return next(iter(canonical_mapping([target])))


def _counted(chosen: Iterable[str], names: Counter[str]) -> str:
    return ", ".join(f"{name} ({names[name]})" for name in sorted(chosen, key=lambda name: (-names[name], name)))
