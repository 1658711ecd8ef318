"""`clora-inspect tui [JOB]`: look at a job and its model in a terminal user interface."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import job_options
from clora_inspect.cli.options.workload import WorkloadRequest, workload_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.cli.stdio.terminal import is_ascii_only
from clora_inspect.config.job_request import JobRequest
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from clora_inspect.config.load import Configuration
    from clora_inspect.tui.job.opening import Opening


def _size(_context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int]:
    """Parse `140x45` into columns and rows.

    Raises:
        BadParameter: it is not the size of a terminal.
    """
    columns, _, rows = (value or "140x45").partition("x")
    if not (columns.isdigit() and rows.isdigit() and 20 <= int(columns) <= 500 and 5 <= int(rows) <= 500):
        raise click.BadParameter("write columns x rows, such as 140x45.", param=parameter)
    return int(columns), int(rows)


@click.command(cls=Command)
@job_options
@workload_options
@click.option(
    "--screenshot", cls=Option, group="Output", metavar="FILE.svg", help="Save a picture and exit; needs no terminal."
)
@click.option(
    "--keys",
    cls=Option,
    group="Output",
    metavar="KEYS",
    default="",
    help="Keys to press before the picture: down,enter,text:linear_fc1",
)
@click.option(
    "--size",
    cls=Option,
    group="Output",
    callback=_size,
    metavar="WxH",
    help="Size of the picture in characters; default: 140x45.",
)
@config_options
@display_options
@click.pass_context
def tui(
    context: click.Context,
    *,
    request: JobRequest,
    workload: WorkloadRequest,
    screenshot: str | None,
    keys: str,
    size: tuple[int, int],
) -> ExitCode:
    r"""Open JOB: its model, what is adapted and why, every rank, findings and drift. Without JOB it
    asks.

    \b
    clora-inspect tui llama3-8b --tp 4 --pp 2
    clora-inspect tui plan.json
    clora-inspect tui llama3-70b --tp 8 --pp 4 --memory --seq-length 8192
    clora-inspect tui llama3-8b --screenshot main.svg --keys slash,text:linear_fc1,enter
    """
    if screenshot is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            "tui needs a terminal for its input and output. For a picture: --screenshot FILE.svg; "
            "for text: clora-inspect plan JOB"
        )
    if screenshot is not None and Path(screenshot).suffix.lower() != ".svg":
        raise click.UsageError(f"--screenshot {screenshot}: the picture is an SVG. Name the file FILE.svg.")
    configuration = configuration_of(context)
    pressed = tuple(key for key in keys.split(",") if key)
    if screenshot is not None:
        from clora_inspect.tui.screenshot import refuse_unknown

        refuse_unknown(pressed)
    opening = _opening(request, workload, configuration)
    from clora_inspect.tui.app import InspectorApp

    display = display_of(context)
    app = InspectorApp(
        opening,
        configuration=configuration,
        keymap=configuration.settings.tui.keymap,
        # A picture is a file, so it may have characters that stdout cannot show.
        ascii_only=display.ascii if screenshot else is_ascii_only(display),
        no_color=display.color == "never",
        counts_memory=workload.is_wanted,
    )
    if screenshot is None:
        app.run()
        # Errors were shown inside. Another code than 0 is a crash; Textual printed its traceback.
        return ExitCode.OK if not app.return_code else ExitCode.INTERNAL
    from clora_inspect.tui.job.child import CommandError
    from clora_inspect.tui.screenshot import take_screenshot

    try:
        take_screenshot(app, Path(screenshot), keys=pressed, size=size)
    except CommandError as error:
        # The job is planned by a command of its own, whose exit status is also ours.
        narrate(f"error: {error}")
        return ExitCode(error.status) if error.status in set(ExitCode) else ExitCode.INTERNAL
    return ExitCode.OK


def _opening(request: JobRequest, workload: WorkloadRequest, configuration: Configuration) -> Opening | None:
    """Return what to open; None lets the interface ask.

    Raises:
        CloraError: a name that means nothing, or a layout that the job does not have.
        UsageError: options that would change a saved plan, or `--layout` for a model without
            layouts.
    """
    from clora_inspect.cli.job.chosen_jobs import first_with_options
    from clora_inspect.config.job_name import SavedFile, meaning_of
    from clora_inspect.tui.job.opening import opening_of_file, opening_of_job

    name = request.name or configuration.settings.default or ""
    if not name:
        return None
    meaning = meaning_of(name, configuration, request.layout_name, run_lora=request.run_lora)
    if not isinstance(meaning, SavedFile):
        job = workload.applied_to(first_with_options(name, meaning, request, configuration))
        return opening_of_job(job, tuple(map(workload.applied_to, meaning.layouts)), configuration)
    if request.changes_anything or workload.changes_anything:
        raise click.UsageError(
            f"{name} is a {meaning.holds}: options of the job cannot change it. "
            "Press w inside to try what they would do."
        )
    return opening_of_file(meaning.path, configuration)
