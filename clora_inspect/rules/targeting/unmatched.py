"""CL1, targeting: entries of `target_modules` and `exclude_modules` that select nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clora.patterns import MLA_TARGETS, hf_hint, matches, nearest
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import counted, places

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class UnmatchedTarget(Rule):
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


class EmptyPlan(Rule):
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


class LatentAttention(Rule):
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
        missing = [name for name in MLA_TARGETS if any(one.last_name == name for one in job.unadapted)]
        adapted = any(one.last_name in MLA_TARGETS for one in job.adapted)
        if asked and missing and not adapted and set(asked) <= set(job.plan.unmatched_targets):
            missed = [one for one in job.unadapted if one.last_name in missing]
            yield self.found(
                f"multi-latent attention has no linear_qkv: {', '.join(asked)} match nothing, and {counted(len(missed), 'input projection')} "
                "of the attention stay unadapted",
                fix=f"write: {', '.join(missing)}",
                details=places(missed),
                location=job.location_of("lora.target_modules"),
            )


class UnmatchedExclusion(Rule):
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
        for entry in dict.fromkeys(job.patterns["exclude_modules"]):
            if any(matches(entry, path) for path in paths):
                continue
            near = nearest(entry, names)
            yield self.found(
                f'"{entry}" of exclude_modules matches no module',
                fix=f"did you mean: {_counted(near, names)}" if near else "remove it",
                target=entry,
                location=job.location_of_entry("exclude_modules", entry),
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


def _counted(chosen: Iterable[str], names: Counter[str]) -> str:
    return ", ".join(f"{name} ({names[name]})" for name in sorted(chosen, key=lambda name: (-names[name], name)))
