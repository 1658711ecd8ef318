"""CL4, surgery: modules that should not be adapted, or cannot be."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.module_path import without_layer
from clora_inspect.job.place import Place
from clora_inspect.rules.base import Needs, Rule
from clora_inspect.rules.linears import Linear, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.job.finding import Location
    from clora_inspect.rules.planned_job import PlannedJob

_FUSED_MLP = "TEFusedMLP"
_OP_FUSER = "use_transformer_engine_op_fuser"
"""The class of a fused dense MLP in megatron-core, and the field of the config that asks for it."""


class TiedWeightAdapted(Rule):
    """The output layer is adapted, and it shares its weight with the embedding.

    The adapter changes what the weight does in the output layer only. Merging it changes the
    embedding too, so that the merged model differs from the trained one.

    Bad: `output_layer` targeted on a model with `share_embeddings_and_output_weights`.
    Good: the output layer left out.
    """

    code = "CL404"
    name = "tied-weight-adapted"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        hit = job.adapted_in(Place.OUTPUT)
        if job.config.get("share_embeddings_and_output_weights") and hit:
            target = hit[0].placement.target if hit[0].placement else None
            yield self.found(
                "output_layer is adapted and shares its weight with the embedding: merging would change the embedding "
                "as well",
                fix="leave output_layer out",
                where=hit[0].path,
                target=target,
                location=_location_of(target, job),
            )


class UnsupportedModule(Rule):
    """A target selects a module that LoRA cannot adapt, or is not a valid target. The job cannot be
    planned until this is fixed.

    Bad: `target_modules = ["word_embeddings"]`, or the fused `linear_qkv`.
    Good: `target_modules = ["linear_q", "linear_k", "linear_v"]`
    """

    code = "CL405"
    name = "unsupported-module"
    severity = Severity.ERROR
    needs = Needs.BUILD


class OutputLayerAdapted(Rule):
    """The output layer is adapted. B then has a row for every word, and many serving engines do not
    load an adapter there.

    Bad: `target_modules = []`, which means all linears, output layer included.
    Good: `exclude_modules = ["output_layer"]`
    """

    code = "CL408"
    name = "output-layer-adapted"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        hit = [(one, placement) for one, placement in job.placements if one.place is Place.OUTPUT]
        # CL404 reports an output layer with a shared weight.
        if hit and not job.config.get("share_embeddings_and_output_weights"):
            linear, placement = hit[0]
            yield self.found(
                f"output_layer is adapted: {placement.model_params:,} parameters, {placement.b_global_shape[-2]:,} "
                "rows in B",
                fix="leave output_layer out, unless the vocabulary changes",
                where=linear.path,
                target=placement.target,
                location=_location_of(placement.target, job),
            )


class RouterAdapted(Rule):
    """The router is adapted. A small change of its logits sends tokens to other experts, and most
    engines cannot load an adapter there.

    Megatron-Bridge 0.3 fails at the first forward: its adapted router takes no padding mask.

    Bad: `target_modules = ["router"]` for an adapter that will be served unmerged.
    Good: the router left out, or an entry in the allow-list that says why it is adapted.
    """

    code = "CL409"
    name = "router-adapted"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        crashing = job.reference_with(Fault.ROUTER_CRASHES)
        effect = "tokens will go to other experts than in the base model"
        fix = "leave router out, unless routing is what should change"
        severity = Severity.WARNING
        # Most releases do not fail, so an unknown one is not said to.
        if crashing and crashing.version:
            effect = f"the first forward of {crashing.label} fails with a TypeError"
            fix = "use Megatron-Bridge 0.4, or leave router out"
            severity = Severity.ERROR
        for place in places(job.adapted_in(Place.ROUTER)):
            yield self.found(
                f"the router is adapted ({place}): {effect}",
                severity=severity,
                fix=fix,
                where=place,
                location=job.location_of("lora.target_modules"),
            )


class BypassedLinears(Rule):
    """The MLP or the experts are fused: they read the weights of their linears and never call them.
    An adapter there would be ignored.

    clora refuses to adapt them. megatron-core fuses a dense MLP with
    `use_transformer_engine_op_fuser` where the trainer asks for it, as Megatron-LM's and
    Megatron-Bridge's do; from 0.18 routed experts as well, and from 0.19 shared experts with
    `use_grouped_gemm_for_shared_expert`.

    Bad: `use_transformer_engine_op_fuser = true` with MLP targets.
    Good: `use_transformer_engine_op_fuser = false`
    """

    code = "CL416"
    name = "bypassed-linears"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        options = job.plan.model.bypassing or {}
        fused = {
            (ranks.pp, skip.chunk, skip.module): skip.class_name
            for ranks in job.plan.rank_classes
            for skip in ranks.skipped
            if skip.class_name in options
        }
        hits: defaultdict[str, list[Linear]] = defaultdict(list)
        for one in job.adapted:
            class_name = fused.get((one.ranks.pp, one.chunk, one.local_path.rpartition(".")[0]))
            if class_name is not None:
                hits[class_name].append(one)
        if self._trainer_fuses(job):
            options = {**options, _FUSED_MLP: _OP_FUSER}
            hits[_FUSED_MLP] += job.adapted_in(Place.MLP)
        for class_name, hit in hits.items():
            for place in places(hit):
                yield self.found(
                    f"{place} is in a {class_name}, which never calls its linears: the adapter would be ignored",
                    fix=f"build the model with {options[class_name]} = false",
                    where=place,
                    location=job.location_of("model"),
                )

    @staticmethod
    def _trainer_fuses(job: PlannedJob) -> bool:
        """Return True if the plan's dense MLPs are plain, and a trainer's will be fused.

        Trainers hand the option to the function that specifies one layer for a whole dense model.
        The plan comes from the function that specifies a block, which does not take it.
        """
        is_dense = job.plan.model.family == "gpt" and not job.config.get("num_moe_experts")
        return is_dense and bool(job.config.get(_OP_FUSER)) and _FUSED_MLP not in (job.plan.model.bypassing or {})


class UnevenLayers(Rule):
    """A linear is adapted in some layers and not in others, because a pattern chooses layers by
    number.

    Bad: `target_modules = ["*.layers.{0..14}.*.linear_proj"]` where all sixteen layers were meant.
    Good: `target_modules = ["linear_proj"]`
    """

    code = "CL418"
    name = "uneven-layers"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        # Linears that differ in their layer alone -> those with an adapter, those without.
        alike: dict[tuple[str, str | None], tuple[list[Linear], list[Linear]]] = {}
        for linear in job.linears:
            if linear.layer is not None:
                key = (without_layer(linear.path), linear.part)
                alike.setdefault(key, ([], []))[0 if linear.placement else 1].append(linear)
        for have, lack in alike.values():
            if have and lack:
                yield self.found(
                    f"{places(have)[0]} is adapted and {places(lack)[0]} is not",
                    fix="nothing, if the numbers in the targets mean it",
                    where=places(have)[0],
                    location=job.location_of("lora.target_modules"),
                )


def _location_of(target: str | None, job: PlannedJob) -> Location | None:
    # A plan with empty `target_modules` adapts all linears, and no entry of the list is to blame.
    return job.location_of_target(target) if target else job.location_of("lora.target_modules")
