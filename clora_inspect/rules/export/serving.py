"""CL6, checkpoint and export: adapters that cannot leave Megatron, or arrive somewhere else than
they were trained.

These rules run where a job says that it will be exported (`export = true`) or served
(`serve = "vllm"`). They translate the name of every adapter, one layer of each kind: the others
differ from it by their number alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from clora.hf_names import HFLinear, NoHFLinear, Rows, hf_linears
from clora_inspect import engines
from clora_inspect.engines import Engine, EngineError
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.module_path import without_layer
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import Kind, Linear, places
from clora_inspect.rules.reference import Fault
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


@dataclass(frozen=True, slots=True)
class Exported:
    """Adapters that differ in their layer alone, and what they are in Hugging Face's model."""

    linears: list[Linear]
    found: tuple[HFLinear, ...] | NoHFLinear
    """In layer 0."""

    @property
    def modules(self) -> tuple[HFLinear, ...]:
        """The Hugging Face linears; none when there are none."""
        return () if isinstance(self.found, NoHFLinear) else self.found


def exported(job: PlannedJob) -> list[Exported]:
    """Every kind of adapter with its Hugging Face linears; none for a model whose names are not
    known.
    """
    model_type = job.plan.model.get("hf_model_type")
    if not model_type:
        return []
    alike: dict[str, list[Linear]] = {}
    for linear in job.adapted:
        alike.setdefault(without_layer(linear.at), []).append(linear)
    made = []
    for linears in alike.values():
        placement = linears[0].placement
        if placement is not None:
            layer = None if placement.global_layer is None else 0
            made.append(
                Exported(linears, hf_linears(msgspec.structs.replace(placement, global_layer=layer), model_type))
            )
    return made


class ExportRule(Rule):
    """What the rules of this family have in common."""

    family = "checkpoint and export"

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """What is found where the adapter leaves Megatron."""
        if job.adapted and (job.export or job.serve):
            yield from self.check_export(job)

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:  # noqa: ARG002 - a rule that is decided elsewhere looks at nothing
        """`check`, when the adapter will be exported."""
        return iter(())


class KeyCollision(ExportRule):
    """Two adapters have the same name in Hugging Face's model: the last one written is the one that
    is kept.

    Megatron-Bridge's two halves of an fc1 without a gate are such a pair.

    Bad: Nemotron with fc1 targeted, trained and exported by Megatron-Bridge.
    Good: fc1 left out, or trained with clora, which gives it one adapter.
    """

    code = "CL601"
    name = "key-collision"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each name."""
        takers: dict[tuple[str, Rows], list[Exported]] = {}
        for one in exported(job):
            for linear in one.modules:
                takers.setdefault((linear.module, linear.rows), []).append(one)
        for (module, _), several in takers.items():
            if len(several) > 1:
                yield self._collision(job, module, [linear for one in several for linear in one.linears])
        reference = job.reference
        if reference and Fault.SPLITS_UNGATED in reference.faults and not job.is_gated:
            for one in exported(job):
                if one.linears[0].last_name == "linear_fc1" and one.linears[0].kind is not Kind.EXPERTS:
                    for linear in one.modules:
                        yield self._collision(job, linear.module, one.linears)

    def _collision(self, job: PlannedJob, module: str, linears: list[Linear]) -> Finding:
        return self.found(
            f"two adapters of every layer are called {module.replace('.0.', '.*.', 1)} when they are exported: one overwrites the other",
            fix="target one of them alone, or train with clora",
            details=places(linears),
            location=job.location_of("lora.target_modules"),
        )


class NotReshardable(Rule):
    """Megatron-Bridge saves the adapters of up and gate as if they were fused: at another tp their
    rows come back in another order.

    The same tp loads what it saved; another loads a permuted adapter, silently.

    Bad: saving at tp = 4 and resuming, or exporting, at tp = 1, with Megatron-Bridge.
    Good: the same tp, or training with clora.
    """

    code = "CL602"
    name = "not-reshardable"
    family = "checkpoint and export"
    severity = Severity.WARNING
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, tp = job.reference, job.plan.layout.tp
        split = [one for one in job.adapted if one.part in ("gate", "up")]
        if reference and Fault.SPLIT_FACTORY in reference.faults and tp > 1 and split:
            yield self.found(
                f"checkpoints of the gate and up adapters load at tp = {tp} only: {reference.label} permutes their rows at any other",
                fix=f"resume and export at tp = {tp}, or train with clora",
                details=places(split),
                location=job.location_of("layout.tp"),
            )


class HFNameUnmapped(ExportRule):
    """An adapter has no linear in Hugging Face's model to go to: an export is refused, or goes on
    without it.

    Better known before the run than after it.

    Bad: Mamba's `in_proj` targeted, for an adapter that will be exported to PEFT.
    Good: it left out, or the merged model exported.
    """

    code = "CL603"
    name = "hf-name-unmapped"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of adapter, folded over layers; one for a model whose names are
        not known at all.
        """
        if not job.plan.model.get("hf_model_type"):
            yield self.found(
                "a model made by a function has no known Hugging Face names: its export is not checked",
                severity=Severity.INFO,
                fix="name a Hugging Face folder or config.json as the model",
                location=job.location_of("model"),
            )
        for one in exported(job):
            if not isinstance(one.found, NoHFLinear) or one.linears[0].kind is Kind.EXPERTS:
                continue
            for place in places(one.linears):
                yield self.found(
                    f"{place} has no Hugging Face linear: {one.found.reason}",
                    severity=Severity.WARNING if one.found.left_out else Severity.ERROR,
                    fix="leave it out, or export the merged model",
                    where=place,
                    location=job.location_of("lora.target_modules"),
                )


class AdapterConfigIncomplete(ExportRule):
    """Megatron-Bridge writes its targets into `adapter_config.json` as they are, and a pattern
    there means nothing to an engine.

    The engine then wraps no module of that name, silently.

    Bad: `target_modules = ["*.layers.0.*.linear_proj"]`, exported by Megatron-Bridge.
    Good: bare names.
    """

    code = "CL604"
    name = "adapter-config-incomplete"
    severity = Severity.ERROR
    reference_only = True

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each target that is no bare name."""
        reference = job.reference
        for target in dict.fromkeys(job.targets):
            if reference and Fault.LEAKS_PATTERNS in reference.faults and ("*" in target or "." in target):
                yield self.found(
                    f'"{target}" goes into adapter_config.json as it is, where it names no module',
                    fix="write bare names, or train with clora",
                    target=target,
                    location=job.location_of_target(target),
                )


class MixedRanks(ExportRule):
    """Adapters have different ranks, and the engine applies one alpha / r to all: some are scaled
    wrong when they are served unmerged.

    An export writes `rank_pattern` and `alpha_pattern`, which PEFT reads and most engines do not.

    Bad: `normalize_moe_lora = true` and `serve = "vllm"`
    Good: one rank for all, or the merged model served.
    """

    code = "CL605"
    name = "mixed-ranks"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        ranks = sorted({placement.dim for _, placement in job.placements})
        engine = _engine(job)
        if len(ranks) > 1 and not (engine and engine.rank_pattern):
            who = engine.title if engine else "most engines"
            yield self.found(
                f"adapters have ranks {', '.join(map(str, ranks))}, and {who} applies one alpha / r to all",
                fix="serve the merged model, or set normalize_moe_lora = false",
                location=job.location_of("lora.normalize_moe_lora"),
            )


class OneSidedExperts(ExportRule):
    """Of the routed experts only fc1 or only fc2 is adapted: engines load experts in pairs, and
    drop one side without the other.

    The adapter trains and the served model ignores it.

    Bad: `target_modules = ["linear_fc1_gate", "linear_fc1_up"]` on a mixture of experts, with
    `serve = "sglang"`
    Good: `linear_fc2` beside them.
    """

    code = "CL606"
    name = "one-sided-experts"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        engine = _engine(job)
        if not engine or engine.expert_modules != "pairs":
            return
        sides: dict[str, set[int | None]] = {"linear_fc1": set(), "linear_fc2": set()}
        for one in job.adapted:
            if one.kind is Kind.EXPERTS:
                sides[one.last_name].add(one.layer)
        for side, other in (("linear_fc1", "linear_fc2"), ("linear_fc2", "linear_fc1")):
            lonely = sides[side] - sides[other]
            if lonely:
                yield self.found(
                    f"the routed experts of layers {fold(layer for layer in lonely if layer is not None)} have an adapter at {side} and none at "
                    f"{other}: {engine.title} drops it",
                    fix=f"adapt {other} as well, or serve the merged model",
                    location=job.location_of("lora.target_modules"),
                )


class RankNotServable(ExportRule):
    """The rank is larger than what the engine loads: by default, which an option changes, or at
    all.

    Bad: `dim = 64` and `serve = "vllm"`, which loads ranks up to 16 unless it is told otherwise.
    Good: `--max-lora-rank 64` when it is started.
    """

    code = "CL607"
    name = "rank-not-servable"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        engine = _engine(job)
        rank = max(placement.dim for _, placement in job.placements)
        if not engine or engine.default_rank is None or rank <= engine.default_rank:
            return
        fitting = min((known for known in engine.ranks if known >= rank), default=None)
        if fitting is None and engine.ranks:
            yield self.found(
                f"rank {rank} is larger than {max(engine.ranks)}, the largest that {engine.title} loads",
                severity=Severity.ERROR,
                fix=f"use dim <= {max(engine.ranks)}, or serve the merged model",
                location=job.location_of("lora.dim"),
            )
        else:
            yield self.found(
                f"rank {rank} is larger than {engine.default_rank}, the largest that {engine.title} loads by default",
                fix=f"start it with {engine.rank_option} {fitting or rank}",
                location=job.location_of("lora.dim"),
            )


class ExpertLayout(ExportRule):
    """The experts of this model are one packed parameter in Hugging Face's model, so their adapters
    have no linear to go to.

    Engines drop what they cannot place: the adapter trains and the served model ignores it.

    Bad: the experts of gpt-oss targeted, with `serve = "vllm"`
    Good: the experts left out, or the merged model served.
    """

    code = "CL608"
    name = "expert-layout"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of adapter, folded over layers."""
        for one in exported(job):
            if isinstance(one.found, NoHFLinear) and one.linears[0].kind is Kind.EXPERTS:
                for place in places(one.linears):
                    yield self.found(
                        f"{place}: {one.found.reason}",
                        fix="leave the experts out, or export the merged model",
                        where=place,
                        location=job.location_of("lora.target_modules"),
                    )


class ModuleNotServed(ExportRule):
    """The engine is not known to apply adapters to some of the modules: it accepts the adapter, and
    leaves them as they are.

    An error when it applies none of them at all.

    Bad: `linear_kv_up_proj` targeted, with `serve = "sglang"`
    Good: modules that the engine serves, or the merged model.
    """

    code = "CL609"
    name = "module-not-served"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        engine = _engine(job)
        if engine is None:
            return
        wanted = {linear.module.rsplit(".", 1)[-1] for one in exported(job) for linear in one.modules}
        dropped = sorted(wanted - engine.modules)
        if dropped:
            nothing = not wanted & engine.modules
            yield self.found(
                f"{engine.title} is not known to apply adapters to {', '.join(dropped)}"
                + (", and to no other of this job" if nothing else ""),
                severity=Severity.ERROR if nothing else Severity.WARNING,
                fix="leave them out, or serve the merged model",
                location=job.location_of("serve"),
            )


class UnknownEngine(ExportRule):
    """The job names an engine of which no profile is known, so nothing about serving is checked.

    Bad: `serve = "vlm"`
    Good: `serve = "vllm"`
    """

    code = "CL610"
    name = "unknown-engine"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        if job.serve and _engine(job) is None:
            known = engines.names()
            yield self.found(
                f"no profile of the engine '{job.serve}' is known{nearest(job.serve, known)}",
                fix=f"known: {', '.join(known)}",
                location=job.location_of("serve"),
            )


class SharedPairCopied(ExportRule):
    """The experts of a layer share one pair, and Hugging Face's model has a linear for each: the
    export writes a copy for every expert.

    The file is that much larger than the adapter that was trained, and an engine holds all of it.

    Bad: 256 experts and nobody told that the adapter of 200 MB becomes one of 30 GB.
    Good: the experts left out, or the merged model served.
    """

    code = "CL611"
    name = "shared-pair-copied"
    severity = Severity.INFO

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        copied = [one for one in exported(job) if one.modules and one.linears[0].placement and _shares(one.linears[0])]
        if not copied:
            return
        trained = sum(placement.model_params for _, placement in job.placements)
        extra = sum(_copied_params(linear, len(one.modules)) for one in copied for linear in one.linears)
        experts = next((p.experts.num_experts for one in copied if (p := one.linears[0].placement) and p.experts), 0)
        yield self.found(
            f"the {experts} experts of a layer share one pair, and the export has one for each: some {(trained + extra) / trained:.0f} times the "
            f"{trained:,} trained parameters",
            fix="expect a large file, leave the experts out, or export the merged model",
            details=[place for one in copied for place in places(one.linears)],
            location=job.location_of("lora.share_expert_adapters"),
        )


class ExpertGateOrder(ExportRule):
    """With expert tensor parallelism Megatron-Bridge exports the gate and up rows of fused experts
    in the wrong order.

    Bad: etp = 2, experts targeted, exported by Megatron-Bridge.
    Good: etp = 1
    """

    code = "CL612"
    name = "expert-gate-order"
    severity = Severity.ERROR
    reference_only = True

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, etp = job.reference, job.plan.layout.etp
        hit = [one for one in job.adapted if one.kind is Kind.EXPERTS and one.last_name == "linear_fc1"]
        if reference and Fault.EXPERT_TP in reference.faults and etp > 1 and hit and job.is_gated:
            yield self.found(
                f"the experts' fused gate and up are exported from etp = {etp}: {reference.label} writes their rows in the wrong order",
                fix="use etp = 1, or train with clora",
                details=places(hit),
                location=job.location_of("layout.etp"),
            )


RULES: tuple[type[Rule], ...] = (
    KeyCollision,
    NotReshardable,
    HFNameUnmapped,
    AdapterConfigIncomplete,
    MixedRanks,
    OneSidedExperts,
    RankNotServable,
    ExpertLayout,
    ModuleNotServed,
    UnknownEngine,
    SharedPairCopied,
    ExpertGateOrder,
)


def _engine(job: PlannedJob) -> Engine | None:
    """The profile of the engine that the job names; None when it names none, or one that is not
    known (CL610 says so).
    """
    if not job.serve:
        return None
    try:
        return engines.load(job.serve)
    except EngineError:
        return None


def _shares(linear: Linear) -> bool:
    placement = linear.placement
    return bool(placement and placement.experts and not placement.experts.per_expert)


def _copied_params(linear: Linear, num_modules: int) -> int:
    """Parameters that `num_modules` Hugging Face linears hold more than the one pair they come
    from.
    """
    placement = linear.placement
    if placement is None or placement.experts is None:
        return 0
    rank, columns = placement.a_global_shape[-2:]
    rows = placement.b_global_shape[-2]
    # A fused fc1 becomes gate and up: each takes A whole and its half of B.
    halves = max(num_modules // placement.experts.num_experts, 1)
    return num_modules * rank * columns + num_modules // halves * rows * rank - placement.model_params
