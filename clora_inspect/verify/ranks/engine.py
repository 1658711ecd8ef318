"""Make the model of a task on this rank, and turn the outcome of a proof into this rank's answer.
All ranks call these together, whatever started them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clora.canonical_lora import CanonicalLoRA
from clora.errors import CloraError, LayoutError, ModelError, one_line
from clora.fused import FUSED
from clora_inspect.machine.faults import is_of_machine
from clora_inspect.sources.errors import BuildError
from clora_inspect.verify.implementation.guarded import Guarded
from clora_inspect.verify.model.model_under_test import LENGTH, ModelUnderTest
from clora_inspect.verify.model.running import ForwardFailed
from clora_inspect.verify.model.together import EndedElsewhere
from clora_inspect.verify.model.weights import WeightsError
from clora_inspect.verify.outcome import BrokenOffError, NotRun, Proved, Refuted, broken_off, place_of
from clora_inspect.verify.proofs import function_of
from clora_inspect.verify.proofs.needs import check_needs
from clora_inspect.verify.small.shrink import path_in_job
from clora_inspect.verify.task import ProofTask, RankAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.verify.implementation.protocol import Implementation
    from clora_inspect.verify.proof_table import Proof

NO_MODULE = "no_module_of_this_stage"
"""A target that matches nothing. An empty list of targets would mean all of them."""


def run_proof(proof: Proof, model: ModelUnderTest) -> RankAnswer:
    """Run `proof` and return how it ended on this rank.

    Raises:
        BrokenOffError: modules of another implementation raised.
        CloraError: nothing was proved or refuted: the model cannot be built, or its weights cannot
            be read.
    """
    try:
        check_needs(proof, model)
        return _passed(function_of(proof)(model))
    except Refuted as refuted:
        return _failed(refuted, model)
    except NotRun as reason:
        return RankAnswer(status="skipped", detail=str(reason))
    except EndedElsewhere:
        return RankAnswer(status="elsewhere")
    except ForwardFailed as failed:
        return _forward_failed(failed, model)
    except (WeightsError, ModelError, LayoutError, BuildError, BrokenOffError):
        raise
    # Any other error of ours comes from surgery itself: the job would stop with the same message.
    except CloraError as error:
        return RankAnswer(status="failed", detail=f"Surgery refuses: {one_line(error)}")
    # Another implementation's modules may raise anything, wherever a proof looks at them.
    except Exception as error:
        if model.implementation.is_ours or is_of_machine(error):
            raise
        raise BrokenOffError(f"{_where(place_of(error), model) or ''}\n{broken_off(error)}") from error


def _passed(proved: Proved) -> RankAnswer:
    return RankAnswer(
        status="passed",
        detail=proved.detail,
        tensors=proved.tensors,
        elements=proved.elements,
        largest_error=proved.largest_error,
        bound=proved.bound,
        lengths=proved.lengths,
    )


def _failed(refuted: Refuted, model: ModelUnderTest) -> RankAnswer:
    return RankAnswer(
        status="failed",
        detail=str(refuted),
        where=_where(refuted.where, model),
        crashed=refuted.cannot_run,
        largest_error=refuted.largest_error,
        bound=refuted.bound,
    )


def _forward_failed(failed: ForwardFailed, model: ModelUnderTest) -> RankAnswer:
    return RankAnswer(
        status="failed",
        detail=f"Running the adapted model raises {failed}.{_some_parts_only(failed.where, model)} "
        "Training would stop at its first step.",
        where=_where(failed.where, model),
        crashed=True,
    )


def _some_parts_only(where: str | None, model: ModelUnderTest) -> str:
    """Return a sentence if only some canonical parts of the linear that failed are adapted: that is
    the most frequent cause. Else return an empty string.
    """
    targets = FUSED.get((where or "").rpartition(".")[2])
    if targets is None:
        return ""
    plan = model.lora.plan(model.base())
    adapted = {placement.part for placement in plan.placements if placement.module == where and placement.part}
    if not adapted or len(adapted) == len(targets):
        return ""
    present = [target for part, target in targets.items() if part in adapted]
    missing = [target for part, target in targets.items() if part not in adapted]
    return (
        f" Of this linear only {' and '.join(present)} {'is' if len(present) == 1 else 'are'} targeted, and this "
        f"implementation calls the adapter of {' and '.join(missing)} as well, which does not exist: target all of "
        "them, or use an implementation that can leave some out."
    )


def _where(path: str | None, model: ModelUnderTest) -> str | None:
    return None if path is None else path_in_job(path, model.layers)


def model_under_test(task: ProofTask, implementation: Implementation) -> ModelUnderTest:
    """Return the model of `task` on this rank, in the process groups that are in place."""
    from torch import distributed

    return ModelUnderTest(
        definition=task.definition,
        layout=task.layout,
        lora=replace(_lora_here(task), dropout=0.0),
        dropout=task.lora.get("dropout", 0.0),
        single_rank_lora=None
        if task.single_rank_targets is None
        else replace(_with_targets(task, task.single_rank_targets), dropout=0.0),
        implementation=Guarded(implementation),
        seed=task.seed,
        ranks=distributed.get_world_size(),
        layers=task.layers,
        one_layer=task.one_layer,
        recompute=task.recompute,
        length=task.length or LENGTH,
        handed_on=task.handed_on,
        weights=None if task.weights is None else Path(task.weights),
    )


def _lora_here(task: ProofTask) -> CanonicalLoRA:
    """Return the job's LoRA, with the task's explicit targets for this rank's stages if any."""
    if task.targets is None:
        return CanonicalLoRA(**task.lora)
    from megatron.core import parallel_state as mpu

    stage, stages = mpu.get_pipeline_model_parallel_rank(), task.layout.pp
    # Virtual stages are numbered as tokens pass them: all ranks' first chunks, then the second
    # ones.
    chunks = [task.targets[chunk * stages + stage] for chunk in range(task.layout.vpp)]
    if any(set(targets) != set(chunks[0]) for targets in chunks):
        raise CloraError(
            "The virtual chunks of one rank have different adapters by layer number, which one list of targets "
            "cannot express for a smaller model. Verify with --vpp 1."
        )
    return _with_targets(task, chunks[0])


def _with_targets(task: ProofTask, targets: Sequence[str]) -> CanonicalLoRA:
    """Return the job's LoRA with other targets; without any, a stage gets no adapters."""
    return CanonicalLoRA(**{**task.lora, "target_modules": list(targets) or [NO_MODULE], "exclude_modules": []})
