"""`clora-inspect fit JOB --gpus N`: list the layouts in which a job fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clora_inspect.cli.job.chosen_jobs import one_job
from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import job_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.config.job_request import JobRequest
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from clora_inspect.formats.look import Look

_GIB = 1 << 30
_LONGEST = 1 << 24
_LARGEST_GPUS = 1 << 16


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
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    default=80.0,
    help="Memory of a GPU; default: 80.",
)
@click.option(
    "--seq-length",
    cls=Option,
    group="Search",
    type=click.IntRange(1, _LONGEST),
    metavar="N",
    default=4096,
    help="Tokens of a row; default: 4096.",
)
@click.option(
    "--global-batch-size",
    cls=Option,
    group="Search",
    type=click.IntRange(1, _LONGEST),
    metavar="N",
    help="Rows of a step over all ranks; default: as many as GPUs.",
)
@click.option(
    "--rows",
    cls=Option,
    group="Search",
    type=click.IntRange(1),
    metavar="N",
    default=10,
    help="Layouts to print; default: 10. JSON has them all.",
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
    gpu_memory_gib: float,
    seq_length: int,
    global_batch_size: int | None,
    rows: int,
    output: Output,
) -> ExitCode:
    r"""List the layouts in which JOB fits on N GPUs, cheapest first. Builds no whole model.

    Every tp, pp, vpp, cp, ep, etp, micro-batch size and recomputation is tried.

    \b
    clora-inspect fit llama3-70b --gpus 64
    clora-inspect fit llama3-70b --gpus 16 --tp 8 --gpu-memory-gib 40 -f json
    """
    from clora_inspect.config.working_folder import working_in
    from clora_inspect.fit.candidates import Batch
    from clora_inspect.fit.search import fit as search
    from clora_inspect.sources.model_name import shown_name

    display = display_of(context)
    configured = one_job(configuration_of(context), request, display)
    batch = Batch(gpus=gpus, seq_length=seq_length, rows=global_batch_size or gpus)
    with working_in(configured.folder):
        found = search(configured.job, batch, int(gpu_memory_gib * _GIB))
    name = shown_name(configured.job.model)

    def render(look: Look) -> str:
        if output.format == "json":
            from clora_inspect.formats.fit.json import render as render_json

            return render_json(name, found)
        from clora_inspect.formats.fit.text import render as render_text

        return render_text(name, found, look, rows)

    output.write(render, display)
    return ExitCode.OK if found.fitting else ExitCode.FOUND
