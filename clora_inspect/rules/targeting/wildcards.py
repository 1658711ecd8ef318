"""CL1, targeting: patterns that mean something else than their author thinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.patterns import is_bare, matches
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import counted, places
from clora_inspect.rules.reference import Fault
from clora_inspect.rules.target_reading import (
    has_expert_number,
    has_layer_number,
    regex_characters,
    is_regex,
    selected_by_global_number,
    selected_by_regex,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class BridgePatternDiffers(Rule):
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


class LocalLayerNumber(Rule):
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
        for field, entries in job.patterns.items():
            for entry in dict.fromkeys(entries):
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


class RegexCharacters(Rule):
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
        for field, entries in job.patterns.items():
            for entry in dict.fromkeys(entries):
                characters = regex_characters(entry)
                if characters:
                    broken = job.reference and not is_regex(entry)
                    yield self.found(
                        f'"{entry}" has {" ".join(characters)}: only * and {{first..last}} are wildcards, everything else stands for itself'
                        + (", and Megatron-Bridge cannot compile it" if broken else ""),
                        fix="write {0..3} for a range, and one entry for each alternative",
                        target=entry,
                        location=job.location_of_entry(field, entry),
                    )


class CatchAll(Rule):
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


class LocalExpertNumber(Rule):
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
        for field, entries in job.patterns.items():
            for entry in dict.fromkeys(entries):
                found = [one for one in job.selected(entry) if ".local_experts." in one.local_path]
                if has_expert_number(entry) and found:
                    yield self.found(
                        f'"{entry}" means another expert on each of the {ep} expert-parallel ranks, because every rank numbers its experts '
                        f"from 0: it selects {ep} times as many as it names",
                        fix="use a pattern without expert numbers, or ep = 1",
                        target=entry,
                        location=job.location_of_entry(field, entry),
                    )
