"""Count the memory of all stages of a job. Stages with the same modules are run once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.errors import CloraError
from clora_inspect.cost.fusions import usual_fusions
from clora_inspect.cost.memory import rank_memory, runs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from clora_inspect.cost.memory import Run
    from clora_inspect.job.cluster import Stage
    from clora_inspect.job.job import Job
    from clora_inspect.job.rank_memory import RankMemory
    from clora_inspect.job.workload import Workload


class CostError(CloraError):
    """What a job costs cannot be counted."""


class StageMemories:
    """The accounts of a job's stages."""

    def __init__(self, job: Job, workload: Workload) -> None:
        """Begin with no stage.

        Raises:
            CostError: the job is built on another device than meta, or the ranks do not divide
                a row.
        """
        if job.device != "meta":
            raise CostError(f"Memory is counted on the meta device, and --device is {job.device}. Leave it out.")
        parts = job.layout.cp * (2 if job.layout.cp > 1 else 1) * (job.layout.tp if job.layout.sequence_parallel else 1)
        if workload.seq_length % parts:
            raise CostError(
                f"seq_length = {workload.seq_length}: the ranks of cp and tp take equal parts of a row, so it is a "
                f"multiple of {parts} for {job.layout.label}."
            )
        self._job, self._workload = job, workload
        self._runs: dict[object, list[Run]] = {}

    def of(self, stage: Stage, chunks: Sequence[nn.Module]) -> RankMemory:
        """Return the account of a rank of `stage`, whose chunks are adapted.

        Raises:
            CostError: the stage's modules cannot be run.
        """
        key = tuple(_signature(chunk) for chunk in chunks)
        if key not in self._runs:
            try:
                with usual_fusions(chunks, self._job.model_overrides):
                    self._runs[key] = runs_of(chunks, self._workload)
            # The modules may be a user's.
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                raise CostError(
                    f"The memory of {self._job.model} cannot be counted: one micro-batch of stage {stage.pp} on the "
                    f"meta device ended in {reason}"
                ) from error
        trained = frozenset(name for chunk in chunks for name, each in chunk.named_parameters() if each.requires_grad)
        return rank_memory(chunks, self._runs[key], self._job.layout, self._workload, stage=stage.pp, adapters=trained)


def _signature(chunk: nn.Module) -> object:
    """Return what makes two chunks keep the same: their modules, and their parameters."""
    parameters = tuple((name, each.shape, each.dtype, each.requires_grad) for name, each in chunk.named_parameters())
    return parameters, tuple((path, type(module)) for path, module in chunk.named_modules())
