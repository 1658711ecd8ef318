"""JOB -> its plan: made from a model, or read from a file, for which neither torch nor
megatron-core is imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.job.configured import one_job
from clora_inspect.cli.options.configuration import configuration_of
from clora_inspect.cli.options.display import display_of
from clora_inspect.cli.stdio.narration import narrate

PRINTED = "output"
"""Origin of what a user's function (or compiled code) wrote to stdout or stderr, see
`quiet.Message`.
"""

if TYPE_CHECKING:
    from clora_inspect.cli.options.job import JobRequest
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.machine.quiet import Noise


def planned(context: click.Context, request: JobRequest) -> JobPlan:
    """The plan of what the user asked for.

    Raises:
        CloraError: the job cannot be, or the file is no plan.
        UsageError: options that would change a saved plan.
    """
    from clora_inspect.config.job_name import saved_file

    # Asked before the configuration is read: a saved plan needs none, and opens beside a broken one.
    saved = saved_file(request.name)
    if saved is None or saved.holds != "saved plan":
        display = display_of(context)
        return _made(one_job(configuration_of(context), request, display), verbose=display.verbose)
    if request.changes_anything:
        raise click.UsageError(
            f"{request.name} is a saved plan: options of the job cannot change it. Plan the model again, with them."
        )
    from clora_inspect.job.plan import decode

    return decode(saved.path.read_bytes(), request.name)


def _made(configured: ConfiguredJob, *, verbose: bool) -> JobPlan:
    from clora_inspect.config.working_folder import working_in
    from clora_inspect.machine.quiet import quiet

    noise = None
    try:
        with quiet() as noise, working_in(configured.folder):
            from clora_inspect.pipeline import plan_job

            return plan_job(configured.job)
    finally:
        if noise is not None:
            _narrate_messages(noise, verbose=verbose, failed=sys.exc_info()[0] is not None)


def _narrate_messages(noise: Noise, *, verbose: bool, failed: bool) -> None:
    """What was said while models were built, each message once: all of it on demand, what was
    printed when the build failed.
    """
    for message in noise.messages:
        if verbose or (failed and message.origin == PRINTED):
            times = f" ({message.count} times)" if message.count > 1 else ""
            narrate(f"{message.origin}{times}: {message.text}")
