"""CL1, targeting: entries of `target_modules` and `exclude_modules` that select nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clora.patterns import MLA_TARGETS, PatternSet, hf_hint, nearest
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.towers import below
from clora_inspect.rules.base import Rule
from clora_inspect.rules.exportable import is_exportable
from clora_inspect.rules.linears import counted, places
from clora_inspect.rules.target_reading import by_other_release, has_layer_number, in_hybrid_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from clora_inspect.rules.planned_job import PlannedJob


EVERY_LINEAR = ("all-linear", "all_linear", "all")
"""Words by which people mean every linear; PEFT has the first."""

MOST_ALONE = 10
"""Largest number of unmatched entries that get a finding each. More of them share one: a list that
is wrong as a whole has one cause.
"""


class UnmatchedTarget(Rule):
    """A target selects no module on any rank: training would go on with fewer adapters than asked
    for.

    This is an error when you wrote the target, and a note when it is an entry of the default list
    that this model has nothing for. For a Hugging Face name the finding has megatron-core's name of
    the same weight.

    Bad: `target_modules = ["linear_fc1x"]`
    Good: `target_modules = ["linear_fc1_gate", "linear_fc1_up"]`
    """

    code = "CL101"
    name = "unmatched-target"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        names = _target_names(job)
        # These targets match nothing on any rank. On one pipeline stage alone that may be right.
        unmatched = job.plan.unmatched_targets
        if len(unmatched) > MOST_ALONE:
            yield self.found(
                f"{len(unmatched):,} targets match no module: {_first_of(unmatched)}",
                severity=Severity.ERROR if job.targets_written else Severity.INFO,
                fix=_all_targets(names) if names else None,
                details=map(_quoted, unmatched),
                location=job.location_of("lora.target_modules"),
            )
            return
        for target in unmatched:
            near = nearest(target, names)
            hint = hf_hint(target)
            yield self.found(
                f'"{target}" matches no module' + (f" ({hint})" if hint else ""),
                severity=Severity.ERROR if job.targets_written else Severity.INFO,
                fix=_renamed(job, target) or _below_a_tower(job, target) or _fix(target, near, names),
                target=target,
                location=job.location_of_target(target),
            )


class EmptyPlan(Rule):
    """No module of the whole model gets an adapter: the run would train nothing, and its loss would
    not change.

    Bad: `target_modules = ["q_proj", "v_proj"]` on a Megatron model, whose modules have other
    names.
    Good: `target_modules = ["linear_q", "linear_v"]`
    """

    code = "CL107"
    name = "empty-plan"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.adapted:
            return
        names = _target_names(job)
        yield self.found(
            "no module gets an adapter: training would change nothing",
            fix=_all_targets(names) if names else "the model has no linear that LoRA can adapt",
            location=job.location_of("lora.target_modules"),
        )


class LatentAttention(Rule):
    """The model has multi-latent attention and no `linear_qkv`: the targets for q, k and v match
    nothing, and the attention's own input projections get no adapter.

    Bad: the default targets on DeepSeek-V3, which leave every input projection of the attention
    untrained.
    Good: `linear_q_down_proj`, `linear_q_up_proj`, `linear_kv_down_proj`, `linear_kv_up_proj` in
    the list.
    """

    code = "CL111"
    name = "latent-attention"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        asked = [target for target in job.targets if target in ("linear_q", "linear_k", "linear_v")]
        unadapted = [one for one in job.unadapted if one.last_name in MLA_TARGETS]
        adapted = any(one.last_name in MLA_TARGETS for one in job.adapted)
        # A model that has both kinds of attention matches the targets for q, k and v somewhere.
        if asked and unadapted and not adapted and set(asked) <= set(job.plan.unmatched_targets):
            names = {one.last_name for one in unadapted if is_exportable(job, one)}
            yield self.found(
                f"multi-latent attention has no linear_qkv: {', '.join(asked)} match nothing, and "
                f"{counted(len(unadapted), 'input projection')} of the attention stay unadapted",
                fix=f"write: {', '.join(name for name in MLA_TARGETS if name in names)}",
                details=places(unadapted),
                location=job.location_of("lora.target_modules"),
            )


class UnmatchedExclusion(Rule):
    """An entry of `exclude_modules` excludes nothing: the module that it should exclude is adapted.

    Bad: `exclude_modules = ["linear_prj"]`
    Good: `exclude_modules = ["linear_proj"]`
    """

    code = "CL116"
    name = "unmatched-exclusion"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        # An exclusion may also name a module that is no linear: then it is needless, but no typo.
        paths = {name for one in job.linears for name in (one.local_path, *one.names)}
        paths |= {skip.module for ranks in job.plan.rank_classes for skip in ranks.skipped}
        names = _target_names(job)
        exclusions = PatternSet(job.patterns["exclude_modules"], "exclude_modules")
        # Equal answers are mostly one object, which is looked at once.
        answers = {id(found): found for found in map(exclusions.matching, paths)}
        matched = {entry for found in answers.values() for entry in found}
        unmatched = [entry for entry in exclusions.targets if entry not in matched]
        if len(unmatched) > MOST_ALONE:
            yield self.found(
                f"{len(unmatched):,} entries of exclude_modules match no module: {_first_of(unmatched)}",
                fix="remove them",
                details=map(_quoted, unmatched),
                location=job.location_of("lora.exclude_modules"),
            )
            return
        for entry in unmatched:
            near = nearest(entry, names)
            yield self.found(
                f'"{entry}" of exclude_modules matches no module',
                fix=_renamed(job, entry) or (f"did you mean: {_with_counts(near, names)}" if near else "remove it"),
                target=entry,
                location=job.location_of_entry("exclude_modules", entry),
            )


def target_findings(job: PlannedJob) -> Iterator[Finding]:
    """Yield the findings that are part of every plan, even where no check runs."""
    for rule in (UnmatchedTarget, EmptyPlan):
        yield from rule().check(job)


def _target_names(job: PlannedJob) -> Counter[str]:
    """Count, for each bare target that selects anything, the linears of the whole model that it
    selects.
    """
    return Counter({name: len(linears) for name, linears in job.by_last_name.items()})


def _fix(target: str, near: Iterable[str], names: Counter[str]) -> str:
    if target in EVERY_LINEAR:
        return (
            "for all linears but the output layer, as PEFT's all-linear, write exclude_modules and no target_modules: "
            "--exclude-modules output_layer"
        )
    return f"did you mean: {_with_counts(near, names)}" if near else _all_targets(names)


def _renamed(job: PlannedJob, target: str) -> str | None:
    """Return advice for a target that selects modules by the names of another class of model, or of
    another release of megatron-core; None for any other target.
    """
    other = by_other_release(target, job.linears)
    if other is not None:
        return f"this release of megatron-core has another name for the layer of a prediction layer: write {other}"
    pattern = job.plan.pattern
    if pattern is None or not pattern.is_of_pairs or not has_layer_number(target):
        return None
    written = in_hybrid_numbers(target, job.linears)
    moved = "layer i of the GPTModel is layers 2i, the attention, and 2i + 1, the MLP, of this HybridModel"
    return f"{moved}: write {written}" if written else None


def _below_a_tower(job: PlannedJob, target: str) -> str | None:
    """Return advice for `decoder.*.linear_q` where the decoder is at `language_model.decoder`.

    None where no tower has modules that `target` would select without the tower's path.
    """
    towers = sorted(job.towers.towers, key=lambda tower: not job.towers.is_main(tower))
    tried = [below(tower.path, target) for tower in towers if tower.path]
    counts = {each: sum(bool(PatternSet([each]).matching(*one.names)) for one in job.linears) for each in tried}
    found = [f"{each} ({count})" for each, count in counts.items() if count]
    return f"did you mean: {', '.join(found)}" if found else None


def _first_of(entries: Sequence[str]) -> str:
    """Write `"a", "b", "c" and 2,997 more`."""
    return f"{', '.join(map(_quoted, entries[:3]))} and {len(entries) - 3:,} more"


def _quoted(entry: str) -> str:
    return f'"{entry}"'


def _all_targets(names: Counter[str]) -> str:
    return f"targets that this model has: {_with_counts(names, names)}"


def _with_counts(chosen: Iterable[str], names: Counter[str]) -> str:
    """Write `linear_proj (32), linear_fc2 (30)`, the most frequent first."""
    return ", ".join(f"{name} ({names[name]})" for name in sorted(chosen, key=lambda name: (-names[name], name)))
