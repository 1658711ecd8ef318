"""CL6, checkpoint and export: adapters that have no Hugging Face linear of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.hf_names import TEXT_MODEL, NoHFLinear, Rows
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.export.exported import Exported, ExportRule, exported
from clora_inspect.rules.linears import Linear, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.plan import Placement
    from clora_inspect.rules.planned_job import PlannedJob


class KeyCollision(ExportRule):
    """Two adapters have the same name in Hugging Face's model, so that one overwrites the other
    when they are exported.

    Megatron-Bridge's two halves of an fc1 without a gate are such a pair.

    Bad: Nemotron with fc1 targeted, trained and exported by Megatron-Bridge.
    Good: fc1 left out, or trained with clora, which gives it one adapter.
    """

    code = "CL601"
    name = "key-collision"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        owners: dict[tuple[str, Rows], list[Exported]] = {}
        for one in exported(job):
            for linear in one.modules:
                owners.setdefault((linear.module, linear.rows), []).append(one)
        # Names alone are not enough: q and k of a packed linear share a module and differ in rows.
        for (module, _), several in owners.items():
            if len(several) > 1:
                yield self._collision(job, module, [linear for one in several for linear in one.linears])
        is_ours = job.plan.planned_by == "clora"
        if is_ours and job.reference_with(Fault.SPLITS_UNGATED) and not job.is_gated:
            # The plan is clora's and has one adapter where Megatron-Bridge makes two.
            for one in exported(job):
                if one.linears[0].last_name == "linear_fc1" and one.linears[0].place is not Place.EXPERTS:
                    for linear in one.modules:
                        yield self._collision(job, linear.module, one.linears)

    def _collision(self, job: PlannedJob, module: str, linears: list[Linear]) -> Finding:
        # `exported` translates the names of layer 0 for all layers.
        return self.found(
            f"two adapters of every layer are called {module.replace('.0.', '.*.', 1)} when they are exported: one "
            "overwrites the other",
            fix="target one of them alone, or train with clora",
            details=places(linears),
            location=job.location_of("lora.target_modules"),
        )


class HFNameUnmapped(ExportRule):
    """An adapter has no linear in Hugging Face's model to belong to: the export is refused, or goes
    on without it.

    Bad: Mamba's `out_proj` targeted, for an adapter that will be exported to PEFT.
    Good: `out_proj` left out, or the merged model exported.
    """

    code = "CL603"
    name = "hf-name-unmapped"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        if not job.plan.model.hf_model_type:
            yield self.found(
                "a model made by a function has no known Hugging Face names: its export is not checked",
                severity=Severity.INFO,
                fix="name a Hugging Face folder or config.json as the model",
                location=job.location_of("model"),
            )
        for one in exported(job):
            # CL608 reports the experts.
            if not isinstance(one.found, NoHFLinear) or one.linears[0].place is Place.EXPERTS:
                continue
            for place in places(one.linears):
                yield self.found(
                    f"{place} has no Hugging Face linear: {one.found.reason}",
                    severity=Severity.WARNING if one.found.left_out else Severity.ERROR,
                    fix="leave it out, or export the merged model",
                    where=place,
                    location=job.location_of("lora.target_modules"),
                )


class PartOfAModel(ExportRule):
    """The config.json names no architecture, so that it may be the text part of a model of several
    modalities, whose layers have other names in the whole model.

    transformers writes `architectures` for every model that it saves, and the object under
    `text_config` has none. An adapter with the names of the text model alone fits the whole model
    nowhere: PEFT raises, and vLLM applies nothing and says nothing.

    Bad: the text_config of Mistral 3, saved as a config.json of its own, and `serve = "vllm"`
    Good: `clora.export_hf(model, folder, "path/to/the/whole/model")`
    """

    code = "CL615"
    name = "part-of-a-model"
    severity = Severity.INFO

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        model = job.plan.model
        if model.names_architecture is False and model.hf_model_type:
            yield self.found(
                f"{model.name} names no architecture: if it is the text_config of a larger model, that model has the "
                f"layers at {TEXT_MODEL}layers.* (transformers 4.52 and later)",
                fix='export with the config.json of the whole model, or add "architectures" to this one if it stands '
                "alone",
                location=job.location_of("model"),
            )


class ExpertLayout(ExportRule):
    """All experts of a layer are one packed parameter in Hugging Face's model, so that their
    adapters have no linear to belong to.

    Engines drop what they cannot place: the adapter is trained, and the served model ignores it.

    Bad: the experts of gpt-oss targeted, with `serve = "vllm"`
    Good: the experts left out, or the merged model served.
    """

    code = "CL608"
    name = "expert-layout"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        for one in exported(job):
            if isinstance(one.found, NoHFLinear) and one.linears[0].place is Place.EXPERTS:
                for place in places(one.linears):
                    yield self.found(
                        f"{place}: {one.found.reason}",
                        fix="leave the experts out, or export the merged model",
                        where=place,
                        location=job.location_of("lora.target_modules"),
                    )


class SharedPairCopied(ExportRule):
    """The experts of a layer share one pair, and Hugging Face's model has a linear for each expert:
    the export writes a copy of the pair for every one.

    The file is many times larger than the trained adapter, and an engine has to hold all of it.

    Bad: 256 experts, where an adapter of 200 MB unexpectedly becomes one of 30 GB.
    Good: the experts left out, or the merged model served.
    """

    code = "CL611"
    name = "shared-pair-copied"
    severity = Severity.INFO

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        copied = [one for one in exported(job) if one.modules and one.linears[0].shares_pair]
        if not copied:
            return
        trained = sum(placement.model_params for _, placement in job.placements)
        extra = sum(
            _copied_params(linear.placement, len(one.modules))
            for one in copied
            for linear in one.linears
            if linear.placement
        )
        experts = next((one.placement.experts.num_experts for one in copied if one.placement.experts), 0)
        yield self.found(
            f"the {experts} experts of a layer share one pair, and the export has one for each: some "
            f"{(trained + extra) / trained:.0f} times the {trained:,} trained parameters",
            fix="expect a large file, leave the experts out, or export the merged model",
            details=[place for one in copied for place in places(one.linears)],
            location=job.location_of("lora.share_expert_adapters"),
        )


def _copied_params(placement: Placement, num_modules: int) -> int:
    """Count the parameters that `num_modules` Hugging Face linears have more than the one shared
    pair that they come from.
    """
    if placement.experts is None:
        return 0
    rank, columns = placement.a_global_shape[-2:]
    rows = placement.b_global_shape[-2]
    # A fused fc1 becomes gate and up: each takes all of A and its half of B.
    halves = max(num_modules // placement.experts.num_experts, 1)
    return num_modules * rank * columns + num_modules // halves * rows * rank - placement.model_params
