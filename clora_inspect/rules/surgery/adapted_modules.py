"""CL4, surgery: modules that should not be adapted, or cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import Reason
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.module_path import global_path
from clora_inspect.rules.base import Needs, Rule
from clora_inspect.rules.linears import Kind, Linear, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


_BYPASSING = "TEFusedMLP"
"""The MLP of megatron-core that reads the weights of its linears and never calls them."""


class TiedWeightAdapted(Rule):
    """The output layer is adapted and its weight is the embedding's: the adapter changes one use of
    it and not the other.

    A merged delta changes both, so the merged model is another one than the trained.

    Bad: `output_layer` targeted on a model with `share_embeddings_and_output_weights`.
    Good: the output layer left out.
    """

    code = "CL404"
    name = "tied-weight-adapted"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        hit = [one for one in job.adapted if one.kind is Kind.OUTPUT]
        if job.config.get("share_embeddings_and_output_weights") and hit:
            target = hit[0].placement.target if hit[0].placement else None
            yield self.found(
                "output_layer is adapted and shares its weight with the embedding: merging would change the embedding as well",
                fix="leave output_layer out",
                where="output_layer",
                target=target,
                location=job.location_of_target(target) if target else job.location_of("lora.target_modules"),
            )


class UnsupportedModule(Rule):
    """A target hits a module that has no LoRA form, or is a string that can never be right. The job
    cannot be planned.

    Bad: `target_modules = ["word_embeddings"]`, or the fused `linear_qkv`.
    Good: `target_modules = ["linear_q", "linear_k", "linear_v"]`
    """

    code = "CL405"
    name = "unsupported-module"
    severity = Severity.ERROR
    needs = Needs.BUILD


class OutputLayerAdapted(Rule):
    """The output layer is adapted: B has a row for every word, and many serving engines do not load
    an adapter there.

    Bad: `target_modules = []`, which means all linears, without a second look.
    Good: `exclude_modules = ["output_layer"]`
    """

    code = "CL408"
    name = "output-layer-adapted"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        hit = [(one, placement) for one, placement in job.placements if one.kind is Kind.OUTPUT]
        if hit and not job.config.get("share_embeddings_and_output_weights"):
            placement = hit[0][1]
            yield self.found(
                f"output_layer is adapted: {placement.model_params:,} parameters, {placement.b_global_shape[-2]:,} rows in B",
                fix="leave output_layer out, unless the vocabulary changes",
                where="output_layer",
                target=placement.target,
                location=job.location_of_target(placement.target)
                if placement.target
                else job.location_of("lora.target_modules"),
            )


class RouterAdapted(Rule):
    """The router is adapted: a small change of its logits sends tokens to other experts, and most
    engines cannot load it.

    Bad: `target_modules = ["router"]` for an adapter that will be served unmerged.
    Good: the router left out; or meant, and allowed with a reason.
    """

    code = "CL409"
    name = "router-adapted"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of router, folded over layers."""
        hit = [one for one in job.adapted if one.kind is Kind.ROUTER]
        for place in places(hit):
            yield self.found(
                f"the router is adapted ({place}): tokens will go to other experts than in the base model",
                fix="leave router out, unless routing is what should change",
                where=place,
                location=job.location_of("lora.target_modules"),
            )


class BypassedLinears(Rule):
    """The MLP is a fused one that reads the weights of its linears and never calls them: an adapter
    there would be ignored.

    Surgery refuses it. The model's builder decides it, with `use_transformer_engine_op_fuser`.

    Bad: `use_transformer_engine_op_fuser = true` with MLP targets.
    Good: `use_transformer_engine_op_fuser = false`
    """

    code = "CL416"
    name = "bypassed-linears"
    severity = Severity.ERROR

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of module, folded over layers."""
        fused = {
            (ranks.pp, skip.chunk, skip.module): global_path(skip.module, skip.global_layer)
            for ranks in job.plan.rank_classes
            for skip in ranks.skipped
            if skip.class_name == _BYPASSING and skip.reason is Reason.NO_PARAMETERS
        }
        hit = [one for one in job.adapted if (one.ranks.pp, one.chunk, one.local_path.rpartition(".")[0]) in fused]
        for place in places(hit):
            yield self.found(
                f"{place} is in a {_BYPASSING}, which never calls its linears: the adapter would be ignored",
                fix="build the model with use_transformer_engine_op_fuser = false",
                where=place,
                location=job.location_of("model"),
            )


class UnevenLayers(Rule):
    """Some layers have an adapter at a linear and others, which have the same linear, do not: a
    pattern with numbers picks them.

    Bad: `target_modules = ["*.layers.{0..14}.*.linear_proj"]` where all sixteen layers were meant.
    Good: `target_modules = ["linear_proj"]`
    """

    code = "CL418"
    name = "uneven-layers"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of linear that some layers have adapted and others not, by the
        number in a pattern.
        """
        alike: dict[tuple[str, str | None], tuple[list[Linear], list[Linear]]] = {}
        for linear in job.linears:
            if linear.layer is not None:
                key = (linear.path.split(".", 3)[-1], linear.part)
                alike.setdefault(key, ([], []))[0 if linear.placement else 1].append(linear)
        for have, lack in alike.values():
            if have and lack:
                yield self.found(
                    f"{places(have)[0]} is adapted and {places(lack)[0]} is not",
                    fix="nothing, if the numbers in the targets mean it",
                    where=places(have)[0],
                    location=job.location_of("lora.target_modules"),
                )
