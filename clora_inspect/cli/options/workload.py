"""The options that say what a training step computes, and ask for its memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from clora.limits import LARGEST_GPU_GIB
from clora_inspect.cli.options.base import Option
from clora_inspect.cli.options.number import Number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clora_inspect.config.jobs import ConfiguredJob

    Command = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRequest:
    """The values of the options, as the user gave them."""

    memory: bool
    """True to show the account of each stage."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Workload`."""
    gpu_memory_gib: float | None = None

    @property
    def changes_anything(self) -> bool:
        """True if an option changes the job, and does not only ask for its memory."""
        return bool(self.fields) or self.gpu_memory_gib is not None

    @property
    def is_wanted(self) -> bool:
        """True if memory is to be counted."""
        return self.memory or self.changes_anything

    def applied_to(self, job: ConfiguredJob) -> ConfiguredJob:
        """Return the job with what the user typed."""
        from clora_inspect.config.job_changes import with_gpu_memory, with_workload

        return with_gpu_memory(with_workload(job, self.fields), self.gpu_memory_gib)


def workload_options(command: Command) -> Command:
    """Add the options; the command gets them as one `WorkloadRequest` named `workload`."""

    @wraps(command)
    def collected(*, memory: bool, gpu_memory_gib: float | None, **others: Any) -> Any:
        from clora_inspect.job.workload import TYPED

        fields = {name: value for name in TYPED if (value := others.pop(name)) is not None}
        request = WorkloadRequest(memory=memory, fields=fields, gpu_memory_gib=gpu_memory_gib)
        return command(workload=request, **others)

    optioned: Command = collected
    for option in reversed(_OPTIONS):
        optioned = option(optioned)
    return optioned


def _workload_option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    return click.option(*names, cls=Option, group="Memory", **attributes)


def _recompute(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    from clora_inspect.job.recompute import SHOWN, is_recompute

    if value is not None and not is_recompute(value):
        raise click.BadParameter(
            f"'{value[:80]}' does not say what is recomputed: write {SHOWN} with N up to 9999, such as full:block:4."
        )
    return value


_POSITIVE = click.IntRange(min=1)
_OPTIONS = (
    _workload_option("--memory", is_flag=True, help="Count the peak memory of each rank, and show where it goes."),
    _workload_option("--seq-length", type=_POSITIVE, metavar="N", help="Tokens in a row; default: 4096."),
    _workload_option("--micro-batch-size", type=_POSITIVE, metavar="N", help="Rows of a micro-batch; default: 1."),
    _workload_option(
        "--packed",
        type=_POSITIVE,
        metavar="N",
        help="Sequences of equal length that are packed in a row; default: a row is one sequence.",
    ),
    _workload_option(
        "--num-microbatches",
        type=_POSITIVE,
        metavar="N",
        help="Micro-batches of a step; default: enough to fill the pipeline.",
    ),
    _workload_option(
        "--imbalance",
        type=Number(min=1),
        metavar="X",
        help="Tokens of the fullest expert, as a multiple of the mean; default: 1.",
    ),
    _workload_option(
        "--recompute",
        callback=_recompute,
        metavar="WHAT",
        help="none, selective[:MODULES] or full[:uniform|block[:N]]; default: as the model's config says.",
    ),
    _workload_option(
        "--gpu-memory-gib",
        type=Number(0, LARGEST_GPU_GIB, min_open=True),
        metavar="X",
        help="Memory of a GPU, with which the peak is compared; default: that of the job.",
    ),
)
