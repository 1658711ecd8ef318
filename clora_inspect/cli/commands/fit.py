"""`clora-inspect fit JOB --gpus N`: list the layouts in which a job fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clora.limits import LARGEST_GPU_GIB, LARGEST_WORKLOAD
from clora_inspect.cli.job.chosen_jobs import one_job
from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import job_options
from clora_inspect.cli.options.number import Number
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.cli.stdio.progress import progress
from clora_inspect.config.job_request import JobRequest
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from clora_inspect.fit.search import Question
    from clora_inspect.formats.look import Look

_GIB = 1 << 30
_LARGEST_GPUS = 1 << 16
_ROWS = 10
# Measured on one core: the imports, and a layer of a mixture. Some are measured for bounds.
_SLOW_S, _IMPORTS_S, _LAYER_S, _BOUNDS = 2.0, 1.0, 0.3, 8
_GPU_MEMORY_GIB = 80.0


def _recompute(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from clora_inspect.job.recompute import is_recompute

    for value in values:
        granularity, _, more = value.partition(":")
        if not is_recompute(value) or (granularity == "full" and more not in ("", "uniform", "uniform:1")):
            raise click.BadParameter(
                f"'{value[:80]}' cannot be tried: write none, selective[:MODULES] or full. In fit, layers are put "
                "together one by one."
            )
    return tuple(dict.fromkeys("full" if value.startswith("full") else value for value in values))


@click.command(cls=Command)
@job_options
@click.option(
    "--gpus",
    cls=Option,
    group="Search",
    type=click.IntRange(1, _LARGEST_GPUS),
    metavar="N",
    required=True,
    help="GPUs of the whole job.",
)
@click.option(
    "--gpu-memory-gib",
    cls=Option,
    group="Search",
    type=Number(0, LARGEST_GPU_GIB, min_open=True),
    metavar="X",
    help="Memory of a GPU; default: that of the job, or 80.",
)
@click.option(
    "--seq-length",
    cls=Option,
    group="Search",
    type=click.IntRange(1, LARGEST_WORKLOAD),
    metavar="N",
    help="Tokens of a row; default: those of the job, or 4096.",
)
@click.option(
    "--global-batch-size",
    cls=Option,
    group="Search",
    type=click.IntRange(1, LARGEST_WORKLOAD),
    metavar="N",
    help="Rows of a step over all ranks; default: as many as GPUs.",
)
@click.option(
    "--recompute",
    cls=Option,
    group="Search",
    multiple=True,
    callback=_recompute,
    metavar="WHAT",
    help="Try this recomputation alone: none, selective[:MODULES] or full. Repeatable.",
)
@click.option(
    "--rows",
    cls=Option,
    group="Search",
    type=click.IntRange(1),
    metavar="N",
    help="Find the N cheapest; default: 10, and in JSON all that fit.",
)
@output_options(("text", "json"), {".json": "json"})
@config_options
@display_options
@click.pass_context
def fit(
    context: click.Context,
    *,
    request: JobRequest,
    gpus: int,
    gpu_memory_gib: float | None,
    seq_length: int | None,
    global_batch_size: int | None,
    recompute: tuple[str, ...],
    rows: int | None,
    output: Output,
) -> ExitCode:
    r"""List the layouts in which JOB fits on N GPUs, cheapest first. Builds no whole model.

    Every tp, pp, vpp, cp, ep, etp, micro-batch size and recomputation is tried.
    A layer is measured for as few of them as the answer needs.

    \b
    clora-inspect fit llama3-70b --gpus 64
    clora-inspect fit llama3-70b --gpus 16 --tp 8 --gpu-memory-gib 40 -f json
    """
    import msgspec

    from clora_inspect.config.working_folder import working_in
    from clora_inspect.fit.candidates import Batch
    from clora_inspect.fit.search import Question
    from clora_inspect.fit.search import fit as search
    from clora_inspect.sources.model_name import shown_name

    display = display_of(context)
    configured = one_job(configuration_of(context), request, display)
    output.keep(request.name, request.lora_name, *configured.sources)
    workload = configured.full_workload
    workload.check_batch(configured.job.layout)
    if seq_length is not None:
        workload = msgspec.structs.replace(workload, seq_length=seq_length)
    question = Question(
        batch=Batch(
            gpus=gpus,
            seq_length=workload.seq_length,
            rows=global_batch_size or workload.global_batch_size or gpus,
            packed=workload.packed,
        ),
        limit_bytes=int((gpu_memory_gib or configured.gpu_memory_gib or _GPU_MEMORY_GIB) * _GIB),
        workload=workload,
        recompute=recompute,
        rows=rows or (_ROWS if output.format == "text" else None),
    )
    name = shown_name(configured.job.model)

    def begins(ways: int) -> None:
        notice = _slow_notice(name, ways, question)
        if notice is not None and not display.quiet:
            narrate(notice)

    with working_in(configured.folder), progress(display) as says:
        found = search(configured.job, question, says, begins)

    def render(look: Look) -> str:
        if output.format == "json":
            from clora_inspect.formats.fit.json import render as render_json

            return render_json(name, found)
        from clora_inspect.formats.fit.text import render as render_text

        return render_text(name, found, look)

    output.write(render, display)
    return ExitCode.OK if found.fitting else ExitCode.FOUND


def _slow_notice(name: str, ways: int, question: Question) -> str | None:
    """Return a sentence for the user if the search takes long; None if it does not.

    Args:
        name: the model.
        ways: ways to split a layer that would be measured for all layouts.
        question: what is asked.
    """
    measured = ways if question.rows is None else min(ways, _BOUNDS + question.rows)
    seconds = _IMPORTS_S + measured * _LAYER_S
    if seconds < _SLOW_S:
        return None
    if question.rows is None and ways > _BOUNDS + _ROWS:
        return (
            f"{name}: to list all layouts, {ways:,} ways to split a layer are measured, which takes about "
            f"{seconds / 60:.0f} minutes. --rows {_ROWS} lists the cheapest ones alone. Ctrl-C ends it."
        )
    return f"{name}: some ways to split a layer are measured, which takes about {seconds:.0f} seconds. Ctrl-C ends it."
