"""CL1, targeting: patterns that select other modules than their author thinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.patterns import is_bare
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import Linear, counted, places
from clora_inspect.rules.reference import Fault
from clora_inspect.rules.target_reading import (
    BridgeSelections,
    by_global_number,
    by_own_name,
    has_expert_number,
    has_layer_number,
    is_regex,
    regex_characters,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class BridgePatternDiffers(Rule):
    """A pattern selects other modules in Megatron-Bridge, which reads every character but `*` as
    part of a regular expression.

    There a dot stands for any character, so that `*.layers.1.*` selects layer 1 and layers 10 to
    19, and `{0..3}` is not a range. In clora a dot is a dot. This is a note for a job that clora
    will train, and an error for one that Megatron-Bridge will train.

    Bad: `target_modules = ["*.layers.1.*.linear_proj"]`, trained by Megatron-Bridge on 32 layers.
    Good: the whole path, `decoder.layers.1.self_attention.linear_proj`
    """

    code = "CL102"
    name = "bridge-pattern-differs"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference = job.reference
        if reference and Fault.REGEX_WILDCARDS not in reference.faults:
            return
        who = reference.label if reference else "Megatron-Bridge"
        patterns = [target for target in job.targets if not is_bare(target)]
        if not patterns:
            return
        bridge = BridgeSelections(patterns, job.linears)
        not_compared = [target for target in patterns if bridge.is_slow(target)]
        if not_compared:
            yield self.found(
                f'what "{not_compared[0]}"{_and_others(len(not_compared) - 1)} would select in {who} is not known: '
                "a regular expression with as many repetitions can take minutes, and is not tried",
                fix="write whole paths or bare names, which both read alike",
                target=not_compared[0],
                location=job.location_of_target(not_compared[0]),
            )
        for target in patterns:
            theirs, ours = bridge.of(target), job.selected(target)
            at_ours = {one.at for one in ours}
            # CL115 reports a target that Megatron-Bridge cannot compile.
            if theirs is None or {one.at for one in theirs} == at_ours:
                continue
            extra = _layers(theirs) - _layers(ours)
            more = f", layers {fold(extra)} besides" if extra else ""
            yield self.found(
                f'"{target}" selects {counted(len(ours), "linear")} here and {len(theirs):,} in {who}{more}',
                severity=Severity.ERROR if reference else Severity.INFO,
                fix="write whole paths or bare names, which both read alike",
                details=places(one for one in theirs if one.at not in at_ours),
                target=target,
                location=job.location_of_target(target),
            )


def _and_others(number: int) -> str:
    return f" (and {counted(number, 'pattern')} like it)" if number else ""


class LocalLayerNumber(Rule):
    """A layer number in a pattern means another layer on each pipeline stage, because every stage
    and chunk numbers its modules from 0.

    With pp = 4 the pattern `*.layers.0.*` selects four layers of the model, and other layers when
    pp changes.

    Bad: `target_modules = ["*.layers.0.*.linear_proj"]` with pp = 2
    Good: pp = 1, or a pattern without layer numbers.
    """

    code = "CL110"
    name = "local-layer-number"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.plan.layout.pp * job.plan.layout.vpp == 1:
            return
        numbered = {name: tuple(filter(has_layer_number, entries)) for name, entries in job.patterns.items()}
        if not any(numbered.values()):
            return
        whole = by_global_number((entry for entries in numbered.values() for entry in entries), job.linears)
        for list_name, entries in numbered.items():
            for entry in entries:
                here = _layers(job.selected(entry))
                meant = _layers(whole.of(entry))
                # The numbers agree, for example, in a range that covers all layers.
                if here == meant:
                    continue
                yield self.found(
                    f'"{entry}" selects layers {fold(here) or "none"} of the model, because every stage and chunk '
                    f"numbers its layers from 0; by their numbers in the model it would be {fold(meant) or 'none'}",
                    fix="use a pattern without layer numbers, or pp = 1",
                    target=entry,
                    location=job.location_of_entry(list_name, entry),
                )


class RegexCharacters(Rule):
    """A target has characters of regular expressions. In clora they stand for themselves: only `*`
    and `{first..last}` are wildcards.

    Megatron-Bridge passes them on to Python's `re`, so that the same string selects other modules
    there.

    Bad: `target_modules = ["*.layers.[0-3].*.linear_q"]`
    Good: `target_modules = ["*.layers.{0..3}.*.linear_q"]`
    """

    code = "CL115"
    name = "regex-characters"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        for list_name, entries in job.patterns.items():
            for entry in filter(regex_characters, entries):
                broken = job.reference and not is_regex(entry)
                yield self.found(
                    f'"{entry}" has {" ".join(regex_characters(entry))}: only * and {{first..last}} are wildcards, '
                    "everything else stands for itself" + (", and Megatron-Bridge cannot compile it" if broken else ""),
                    fix="write {0..3} for a range, and one entry for each alternative",
                    target=entry,
                    location=job.location_of_entry(list_name, entry),
                )


class CatchAll(Rule):
    """A pattern ends in a wildcard that matches a fused linear by its own name. Megatron-Bridge
    wraps that linear without an adapter.

    Its forward then fails with `'NoneType' object is not callable`. In clora such a target selects
    the canonical parts that it matches.

    Bad: `target_modules = ["*.mlp.linear_fc*"]`, trained by Megatron-Bridge.
    Good: `target_modules = ["linear_fc1_gate", "linear_fc1_up", "linear_fc2"]`
    """

    code = "CL118"
    name = "catch-all"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference = job.reference_with(Fault.CATCH_ALL)
        if not reference:
            return
        catching = [target for target in job.targets if "*" in target.rsplit(".", 1)[-1]]
        own = by_own_name(catching, [one for one in job.linears if one.last_name in FUSED])
        for target in catching:
            hit = own.of(target)
            if hit:
                fused = sorted({one.last_name for one in hit})
                parts = sorted({name.rsplit(".", 1)[-1] for one in hit for name in one.names})
                yield self.found(
                    f'"{target}" matches {", ".join(fused)} by its own name: {reference.label} wraps it without an '
                    "adapter, and its forward fails",
                    fix=f"name the parts: {', '.join(parts)}",
                    details=places(hit),
                    target=target,
                    location=job.location_of_target(target),
                )


class LocalExpertNumber(Rule):
    """An expert number in a pattern means another expert on each expert-parallel rank, because
    every rank numbers its experts from 0.

    Bad: `target_modules = ["*.local_experts.0.linear_fc2"]` with ep = 4, which adapts four experts
    of each layer.
    Good: a pattern without expert numbers.
    """

    code = "CL120"
    name = "local-expert-number"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        ep = job.plan.layout.ep
        if ep == 1:
            return
        for list_name, entries in job.patterns.items():
            for entry in filter(has_expert_number, entries):
                # Grouped experts are one module, in which no pattern can number them.
                if any(".local_experts." in one.local_path for one in job.selected(entry)):
                    yield self.found(
                        f'"{entry}" means another expert on each of the {ep} expert-parallel ranks, because every rank '
                        f"numbers its experts from 0: it selects {ep} times as many as it names",
                        fix="use a pattern without expert numbers, or ep = 1",
                        target=entry,
                        location=job.location_of_entry(list_name, entry),
                    )


def _layers(linears: Iterable[Linear]) -> set[int]:
    return {one.layer for one in linears if one.layer is not None}
