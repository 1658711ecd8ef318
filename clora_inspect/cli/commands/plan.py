"""`clora-inspect plan JOB`: show what the surgery would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clora_inspect.cli.job.plan_errors import narrate_errors
from clora_inspect.cli.job.requested_plan import requested_plan
from clora_inspect.cli.options.base import Command
from clora_inspect.cli.options.configuration import config_options
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import JobRequest, job_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.options.view import ViewRequest, view_options

if TYPE_CHECKING:
    from clora_inspect.exit_code import ExitCode


@click.command(cls=Command)
@job_options
@view_options
@output_options(("text", "json"), {".json": "json"})
@config_options
@display_options
@click.pass_context
def plan(context: click.Context, *, request: JobRequest, view: ViewRequest, output: Output) -> ExitCode:
    r"""Show which modules of JOB get which adapters, on every rank. Changes nothing.

    \b
    clora-inspect plan llama3-8b --tp 4 --pp 2
    clora-inspect plan deepseek-v3 --tp 8 --pp 16 --ep 64 -o plan.json
    clora-inspect plan plan.json --only missed
    """
    display = display_of(context)
    made = requested_plan(context, request)
    if output.format == "json":
        from clora_inspect.formats.plan.json import render as render_json

        output.write(lambda _look: render_json(made), display)
    else:
        from clora_inspect.formats.plan.text import render

        chosen = view.resolved(findings_only=display.quiet)
        output.write(lambda look: render(made, look, chosen), display)
    # After the plan, so that on a terminal the errors are what is read last.
    return narrate_errors(made)
