"""Run one proof on this rank. Every rank of a job calls this together, whatever started them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clora.canonical_lora import CanonicalLoRA
from clora.errors import CloraError, ModelError
from clora_inspect.sources.errors import BuildError
from clora_inspect.verify.model.implementation import Watched
from clora_inspect.verify.model.running import ForwardFailed
from clora_inspect.verify.model.subject import Subject
from clora_inspect.verify.model.together import Elsewhere
from clora_inspect.verify.model.weights import WeightsError
from clora_inspect.verify.outcome import NotRun, Refuted
from clora_inspect.verify.proofs import Proof
from clora_inspect.verify.request import Answer, Asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.verify.model.implementation import Implementation

NOWHERE = "no_module_of_this_stage"
"""A target that matches nothing: an empty list would mean everything."""


def answer(proof: Proof, subject: Subject) -> Answer:
    """How `proof` ends for `subject` on this rank."""
    try:
        proved = proof.prove(subject)
    except Refuted as refuted:
        return Answer(
            status="failed",
            detail=str(refuted),
            where=_in_job(refuted.where, subject),
            crashed=refuted.stops,
            largest_error=refuted.largest_error,
            bound=refuted.bound,
        )
    except NotRun as reason:
        return Answer(status="skipped", detail=str(reason))
    except Elsewhere:
        return Answer(status="elsewhere")
    except ForwardFailed as failed:
        return Answer(
            status="failed",
            detail=f"Running the adapted model raises {failed}.{_partly(failed.where, subject)} Training would stop at its first step.",
            where=_in_job(failed.where, subject),
            crashed=True,
        )
    except (WeightsError, ModelError, BuildError):
        # Nothing was proved or refuted: the user is told.
        raise
    except CloraError as error:
        return Answer(status="failed", detail=f"Surgery refuses: {error}")
    return Answer(
        status="passed",
        detail=proved.detail,
        tensors=proved.tensors,
        elements=proved.elements,
        largest_error=proved.largest_error,
        bound=proved.bound,
    )


def _partly(where: str | None, subject: Subject) -> str:
    """Says when only some canonical parts of the linear that failed have adapters: that is what
    most often goes wrong there.
    """
    from clora.fused import FUSED

    every = FUSED.get((where or "").rpartition(".")[2])
    if every is None:
        return ""
    plan = subject.lora.plan(subject.base())
    parts = [placement.part for placement in plan.placements if placement.module == where and placement.part]
    if not parts or len(parts) == len(every):
        return ""
    missing = [target for part, target in every.items() if part not in parts]
    return (
        f" Of this linear only {' and '.join(every[part] for part in every if part in parts)} "
        f"{'is' if len(parts) == 1 else 'are'} targeted, and this "
        f"implementation calls the adapter of {' and '.join(missing)} as well, which there is not: target all "
        "of them, or use one that can leave some out."
    )


def subject_of(asked: Asked, implementation: Implementation) -> Subject:
    """The subject on this rank of the world that is entered."""
    from torch import distributed

    return Subject(
        definition=asked.definition,
        layout=asked.layout,
        lora=_lora(asked),
        whole_lora=None if asked.whole_targets is None else _with_targets(asked, asked.whole_targets),
        implementation=Watched(implementation),
        seed=asked.seed,
        ranks=distributed.get_world_size(),
        layers=asked.layers,
        ends=asked.ends,
        streamed=asked.streamed,
        recompute=asked.recompute,
        weights=None if asked.weights is None else Path(asked.weights),
    )


def _lora(asked: Asked) -> CanonicalLoRA:
    """The job's LoRA; with explicit targets those of this rank's stages."""
    if asked.targets is None:
        return CanonicalLoRA(**asked.lora)
    from megatron.core import parallel_state as mpu

    stage, stages = mpu.get_pipeline_model_parallel_rank(), asked.layout.pp
    own = [asked.targets[chunk * stages + stage] for chunk in range(asked.layout.vpp)]
    if any(set(targets) != set(own[0]) for targets in own):
        raise CloraError(
            "The virtual chunks of one rank have different adapters by layer number, which one list of targets "
            "cannot say for a smaller model. Verify with --vpp 1."
        )
    return _with_targets(asked, own[0])


def _with_targets(asked: Asked, targets: Sequence[str]) -> CanonicalLoRA:
    """The job's LoRA with explicit targets; none of them means a stage without adapters."""
    return CanonicalLoRA(**{**asked.lora, "target_modules": list(targets) or [NOWHERE], "exclude_modules": []})


def _in_job(where: str | None, subject: Subject) -> str | None:
    """A path of this rank's model as a path of the job."""
    if where is None:
        return None
    from clora_inspect.job.module_path import layer_of
    from clora_inspect.verify.small.shrink import where_in_job

    number = layer_of(where)
    if number is None or where.startswith("mtp."):
        return where
    return where_in_job(where, subject.layers)
