"""Run one proof on this rank. Every rank of a job calls this together, whatever started them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clora.canonical_lora import CanonicalLoRA
from clora.errors import CloraError, ModelError
from clora_inspect.sources.errors import BuildError
from clora_inspect.verify.implementation.guarded import Guarded
from clora_inspect.verify.model.model_under_test import ModelUnderTest
from clora_inspect.verify.model.running import ForwardFailed
from clora_inspect.verify.model.together import Elsewhere
from clora_inspect.verify.model.weights import WeightsError
from clora_inspect.verify.outcome import NotRun, Refuted
from clora_inspect.verify.proofs import Proof
from clora_inspect.verify.task import ProofTask, RankAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.verify.implementation.protocol import Implementation

NOWHERE = "no_module_of_this_stage"
"""A target that matches nothing: an empty list would mean everything."""


def run_proof(proof: Proof, model: ModelUnderTest) -> RankAnswer:
    """How `proof` ends for `model` on this rank."""
    try:
        proved = proof.prove(model)
    except Refuted as refuted:
        return RankAnswer(
            status="failed",
            detail=str(refuted),
            where=_in_job(refuted.where, model),
            crashed=refuted.stops,
            largest_error=refuted.largest_error,
            bound=refuted.bound,
        )
    except NotRun as reason:
        return RankAnswer(status="skipped", detail=str(reason))
    except Elsewhere:
        return RankAnswer(status="elsewhere")
    except ForwardFailed as failed:
        return RankAnswer(
            status="failed",
            detail=f"Running the adapted model raises {failed}.{_partly(failed.where, model)} Training would stop at its first step.",
            where=_in_job(failed.where, model),
            crashed=True,
        )
    except (WeightsError, ModelError, BuildError):
        # Nothing was proved or refuted: the user is told.
        raise
    except CloraError as error:
        return RankAnswer(status="failed", detail=f"Surgery refuses: {error}")
    return RankAnswer(
        status="passed",
        detail=proved.detail,
        tensors=proved.tensors,
        elements=proved.elements,
        largest_error=proved.largest_error,
        bound=proved.bound,
    )


def _partly(where: str | None, model: ModelUnderTest) -> str:
    """Says when only some canonical parts of the linear that failed have adapters: that is what
    most often goes wrong there.
    """
    from clora.fused import FUSED

    every = FUSED.get((where or "").rpartition(".")[2])
    if every is None:
        return ""
    plan = model.lora.plan(model.base())
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


def model_under_test(task: ProofTask, implementation: Implementation) -> ModelUnderTest:
    """The model on this rank of the world that is entered."""
    from torch import distributed

    return ModelUnderTest(
        definition=task.definition,
        layout=task.layout,
        lora=_lora(task),
        whole_lora=None if task.whole_targets is None else _with_targets(task, task.whole_targets),
        implementation=Guarded(implementation),
        seed=task.seed,
        ranks=distributed.get_world_size(),
        layers=task.layers,
        ends=task.ends,
        streamed=task.streamed,
        recompute=task.recompute,
        weights=None if task.weights is None else Path(task.weights),
    )


def _lora(task: ProofTask) -> CanonicalLoRA:
    """The job's LoRA; with explicit targets those of this rank's stages."""
    if task.targets is None:
        return CanonicalLoRA(**task.lora)
    from megatron.core import parallel_state as mpu

    stage, stages = mpu.get_pipeline_model_parallel_rank(), task.layout.pp
    own = [task.targets[chunk * stages + stage] for chunk in range(task.layout.vpp)]
    if any(set(targets) != set(own[0]) for targets in own):
        raise CloraError(
            "The virtual chunks of one rank have different adapters by layer number, which one list of targets "
            "cannot say for a smaller model. Verify with --vpp 1."
        )
    return _with_targets(task, own[0])


def _with_targets(task: ProofTask, targets: Sequence[str]) -> CanonicalLoRA:
    """The job's LoRA with explicit targets; none of them means a stage without adapters."""
    return CanonicalLoRA(**{**task.lora, "target_modules": list(targets) or [NOWHERE], "exclude_modules": []})


def _in_job(where: str | None, model: ModelUnderTest) -> str | None:
    """A path of this rank's model as a path of the job."""
    if where is None:
        return None
    from clora_inspect.job.module_path import layer_of
    from clora_inspect.verify.small.shrink import where_in_job

    number = layer_of(where)
    if number is None or where.startswith("mtp."):
        return where
    return where_in_job(where, model.layers)
