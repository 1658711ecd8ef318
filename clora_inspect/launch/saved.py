"""`load_plan`: carry out in a trainer what was planned and accepted, and nothing else.

plan, lora = load_plan("plan.json").for_rank(model)
clora.apply(plan, model, lora)

A saved plan has the adapters of every rank, so any of them can be asked for without a model. A
snapshot has the adapters of the whole model alone: each rank plans its own modules for them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora.errors import CloraError, LayoutError
from clora.plan import Plan
from clora_inspect.launch.expected import Expected, read_expected
from clora_inspect.launch.refusal import refuse

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from torch import nn

    from clora.linears import Model
    from clora_inspect.job.plan import JobPlan


def load_plan(path: str | os.PathLike[str]) -> SavedPlan:
    """Read a saved plan, a snapshot or the record of a run, to carry it out.

    Raises:
        CloraError: it cannot be read, or is neither of them.
    """
    return SavedPlan(expected=read_expected(Path(path)))


class RankPlan(NamedTuple):
    """The surgery of one rank: the arguments of `clora.apply` beside the model."""

    plan: Plan
    lora: CanonicalLoRA


class AcceptedPlan(Plan, frozen=True, kw_only=True):
    """The plan of one rank out of a file. It holds for the model that the file was made of."""

    expected: Expected

    def check(self, chunks: Sequence[nn.Module]) -> None:
        """Raise when layout, modules or versions of this rank are not those of the file.

        Raises:
            SurgeryError: they differ; the message has the first differences with their numbers.
        """
        from clora_inspect.launch.comparison import compare_model
        from clora_inspect.launch.live import read_rank

        refuse(self.expected.name, compare_model(self.expected, read_rank(list(chunks))))


class SavedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plans of a file for every rank of its job."""

    expected: Expected

    def for_rank(self, model: Model | None = None, *, stage: int | None = None, rank: int | None = None) -> RankPlan:
        """Return the plan of one rank, and the settings of its adapters.

        Without coordinates it is this process's rank, by the pipeline group of `model` or that of
        the job. `clora.apply` then refuses a model whose modules, shapes, layout or versions are
        not those of the file.

        Args:
            model: this rank's model, or the list of its virtual pipeline chunks, not adapted yet. A
                snapshot needs it, because it does not say what a rank holds.
            stage: number of the pipeline stage, from 0.
            rank: number of the rank in the job that was planned, from 0.

        Raises:
            LayoutError: the plan has no such rank, or another number of stages than the job.
            SurgeryError: a snapshot is of another model or layout.
            CloraError: a snapshot is asked for a rank without its model.
        """
        plan = self.expected.plan
        if plan is not None:
            return _of_plan(self.expected, plan, self._stage(plan, model, stage, rank))
        if model is None or stage is not None or rank is not None:
            raise CloraError(
                f"{self.expected.name} has the adapters of the whole model, and not the modules of a rank: call "
                "for_rank(model) on the rank itself, or save a plan: clora-inspect plan JOB -f json -o FILE"
            )
        from clora_inspect.launch.snapshot_plan import plan_for_snapshot

        plan_of_rank, lora = plan_for_snapshot(self.expected, model)
        return RankPlan(AcceptedPlan(**_fields(plan_of_rank), expected=self.expected), lora)

    def _stage(self, plan: JobPlan, model: Model | None, stage: int | None, rank: int | None) -> int:
        if stage is not None and rank is not None:
            raise LayoutError(f"stage = {stage} and rank = {rank}: name one of them, or neither.")
        if rank is not None:
            found = [each.pp for each in plan.rank_classes if any(low <= rank <= high for low, high in each.members)]
            if not found:
                raise LayoutError(
                    f"{self.expected.name} is planned for {plan.layout.world} ranks, 0 to {plan.layout.world - 1}, and "
                    f"rank {rank} is none of them."
                )
            return found[0]
        if stage is None:
            stage, stages = _live_stage(model)
            if stages != plan.layout.pp:
                raise LayoutError(
                    f"{self.expected.name} is planned for pp = {plan.layout.pp}, and this job has pp = {stages}. "
                    "Without process groups name the rank: for_rank(stage=0)."
                )
        if not 0 <= stage < plan.layout.pp:
            raise LayoutError(
                f"{self.expected.name} has {plan.layout.pp} pipeline stages, 0 to {plan.layout.pp - 1}, and stage "
                f"{stage} is none of them."
            )
        return stage


def _live_stage(model: Model | None) -> tuple[int, int]:
    """Return the number of this process's pipeline stage and how many there are."""
    # Without a model the groups are megatron-core's, which nobody has made before it was imported.
    if model is None and "megatron.core.parallel_state" not in sys.modules:
        return 0, 1
    from clora import linears

    group = linears.pipeline_group(None if model is None else linears.chunks_of(model)[0])
    return (0, 1) if group is None else (group.rank(), group.size())


def _of_plan(expected: Expected, plan: JobPlan, stage: int) -> RankPlan:
    ranks = next((each for each in plan.rank_classes if each.pp == stage), None)
    if ranks is None:
        raise LayoutError(f"{expected.name} lists no rank of stage {stage}: it was edited, or is not whole.")
    if ranks.model_params is None or ranks.matches is None:
        raise CloraError(
            f"{expected.name} was saved by an older clora-inspect, and lacks what a rank needs. Write it again: "
            "clora-inspect plan JOB -f json -o FILE"
        )
    paths = (*(each.module for each in ranks.placements), *(each.module for each in ranks.skipped))
    accepted = AcceptedPlan(
        placements=ranks.placements,
        skipped=ranks.skipped,
        matches=ranks.matches,
        base_params=ranks.base_params,
        model_params=ranks.model_params,
        towers=tuple(dict.fromkeys(plan.towers.of(path) for path in paths)),
        expected=expected,
    )
    return RankPlan(accepted, CanonicalLoRA(**plan.lora.fields()))


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__struct_fields__}
