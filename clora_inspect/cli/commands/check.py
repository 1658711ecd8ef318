"""`clora-inspect check`, also spelled `--check`: rules, and drift from snapshots, for CI."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from clora_inspect.cli.job.chosen_jobs import chosen_jobs
from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.completion import complete_configured_job
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.findings_output import write_also
from clora_inspect.cli.options.job import job_change_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.options.rules import rule_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.config.job_request import JobRequest
from clora_inspect.exit_code import ExitCode
from clora_inspect.formats.findings import FORMATS, SUFFIXES, renderer

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.check.add_allow import Added
    from clora_inspect.check.recorded import RecordedRun
    from clora_inspect.check.report import CheckReport, Narration
    from clora_inspect.check.run import CheckOptions
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.key_path import KeyPath
    from clora_inspect.config.load import Configuration


def _option(*names: str, group: str, **attributes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, cls=Option, group=group, **attributes)


@click.command(cls=Command)
@click.argument("jobs", metavar="[JOB]...", nargs=-1, shell_complete=complete_configured_job)
@job_change_options
@rule_options
@_option("--no-allow", is_flag=True, group="Rules", help="Report also what the allow-list covers.")
@_option(
    "--add-allow", group="Rules", metavar="REASON", help="Write entries for all findings that fail into the allow-list."
)
@_option("--snapshot-dir", group="Snapshot", metavar="DIR", help="Folder of the snapshots; default: snapshots.")
@_option("--no-snapshot", is_flag=True, group="Snapshot", help="Do not compare with snapshots.")
@_option(
    "--require-snapshot/--no-require-snapshot",
    default=None,
    group="Snapshot",
    help="Whether a job without a snapshot fails; default: yes.",
)
@_option(
    "--verify",
    type=click.Choice(["off", "tiny"]),
    group="Verify",
    help="Also prove the surgery on a shrunken model; default: off.",
)
@_option("--no-cache", is_flag=True, group="Snapshot", help="Plan every job again, and write no plans to the cache.")
@_option(
    "--no-code",
    is_flag=True,
    group="Job",
    help="Refuse jobs whose model a function makes: run nothing of a repository that is not trusted.",
)
@_option(
    "--checkpoint",
    group="Job",
    metavar="DIR",
    help="Does this distributed checkpoint, of the base or of adapters, belong to the job? Reads its index only.",
)
@_option(
    "--recorded",
    group="Snapshot",
    metavar="DIR",
    help="Compare the job with the run that clora-inspect gate --record DIR recorded, in place of its snapshot.",
)
@output_options(FORMATS, SUFFIXES)
@_option(
    "--write",
    "also",
    multiple=True,
    group="Output",
    metavar="FORMAT=FILE",
    help="Write the report also to FILE. Repeatable.",
)
@_option("--statistics", is_flag=True, group="Output", help="Count findings by rule instead of listing them.")
@_option("--exit-zero", is_flag=True, group="Output", help="Exit with 0 whatever is found.")
@_option("--no-progress", is_flag=True, group="Output", help="Do not show what is being done.")
@config_options
@display_options
@click.pass_context
def check(
    context: click.Context,
    /,
    *,
    jobs: tuple[str, ...],
    request: JobRequest,
    output: Output,
    also: tuple[str, ...],
    statistics: bool,
    exit_zero: bool,
    no_progress: bool,
    add_allow: str | None,
    no_allow: bool,
    no_snapshot: bool,
    no_cache: bool,
    no_code: bool,
    checkpoint: str | None,
    recorded: str | None,
    # Options that set keys of the configuration: `_keys` reads them from the context.
    **_read_by_keys: Any,
) -> ExitCode:
    r"""Check all configured jobs, or the JOBs: run the rules, and look for drift from the accepted
    snapshots.

    \b
    clora-inspect --check
    clora-inspect check llama3-8b --fail-on warning
    clora-inspect check -f github --write sarif=clora.sarif
    """
    from clora_inspect.check.run import check as run_check
    from clora_inspect.cli.stdio.progress import progress

    display = display_of(context)
    configuration = configuration_of(context, _keys(context))
    chosen = [
        _with_checkpoint(job, checkpoint) for job in chosen_jobs(configuration, jobs, request.layout_name, request)
    ]
    # Before the work begins: a mistake in --write must not cost a whole check.
    read = [*jobs, request.lora_name or "", *(path for job in chosen for path in job.sources)]
    write_others = write_also(also, output, read)
    options = _check_options(
        jobs, request, no_snapshot=no_snapshot, no_allow=no_allow, no_cache=no_cache, no_code=no_code
    )
    if recorded is not None:
        options = replace(options, recorded=_recorded_run(recorded, chosen))
    with progress(display, wanted=not no_progress) as notify:
        report, narration = run_check(configuration, chosen, options, notify, narrate)
    if add_allow is not None:
        status = _add_allow(configuration, report, add_allow, display)
        return ExitCode.OK if exit_zero else status
    output.write(
        lambda look: _rendered(report, output.format, look, statistics=statistics, quiet=display.quiet), display
    )
    write_others(report, display)
    if output.format == "github":
        from clora_inspect.cli.stdio.step_summary import write_step_summary

        write_step_summary(report, os.environ)
    _narrate_time(report, narration, output, display)
    return ExitCode.OK if exit_zero else report.exit_code


def _with_checkpoint(job: ConfiguredJob, folder: str | None) -> ConfiguredJob:
    if folder is None:
        return job
    # A typed path is relative to the current folder, a path in the file to the folder of the file.
    path = folder if job.folder == Path.cwd() else str(Path.cwd() / folder)
    return replace(job, checkpoint=path, typed=job.typed | {("checkpoint",)})


def _recorded_run(folder: str, chosen: list[ConfiguredJob]) -> RecordedRun:
    from clora_inspect.check.recorded import read_recorded

    if len(chosen) != 1:
        labels = ", ".join(job.label.replace(" ", "/") for job in chosen)
        raise click.UsageError(f"--recorded compares one run with one job on one layout. Name one of {labels}.")
    return read_recorded(Path(folder))


def _check_options(
    jobs: tuple[str, ...],
    request: JobRequest,
    *,
    no_snapshot: bool,
    no_allow: bool,
    no_cache: bool,
    no_code: bool,
) -> CheckOptions:
    from clora_inspect.check.run import CheckOptions
    from clora_inspect.snapshot.store import in_ci

    return CheckOptions(
        whole=not jobs and not request.changes_anything,
        snapshots=not no_snapshot,
        # A job that options have changed is not the configured one, so its adapters must not be
        # offered as the snapshot of the configured one.
        offer=not in_ci(os.environ) and not (request.changes_job or request.lora_name),
        allow=not no_allow,
        cache=not no_cache,
        code=not no_code,
    )


def _keys(context: click.Context) -> dict[KeyPath, tuple[str, Any]]:
    """Return the keys of the configuration that options of this command set.

    Values from environment variables are left out: `config.load` reads those itself.
    """
    from clora_inspect.cli.options.rules import RULE_KEYS

    keys: dict[str, KeyPath] = {
        **RULE_KEYS,
        "require_snapshot": ("check", "require-snapshot"),
        "verify": ("check", "verify"),
    }
    typed = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    found = {keys[name]: (f"--{name.replace('_', '-')}", value) for name, value in typed.items() if name in keys}
    # A typed path is relative to the current folder, a path in the file to the folder of the file.
    if "snapshot_dir" in typed:
        found["snapshots",] = ("--snapshot-dir", str(Path.cwd() / typed["snapshot_dir"]))
    return found


def _rendered(report: CheckReport, form: str, look: Any, *, statistics: bool, quiet: bool) -> str:
    if statistics and form == "text":
        from clora_inspect.formats.findings.base.statistics import render

        return render(report, look)
    if quiet and form == "text":
        from clora_inspect.formats.findings.text import render_findings

        return render_findings(report, look)
    return renderer(form)(report, look)


def _add_allow(configuration: Configuration, report: CheckReport, reason: str, display: Display) -> ExitCode:
    import msgspec

    from clora_inspect.check.add_allow import add_allow
    from clora_inspect.cli.stdio.terminal import look_of_stdout, print_data
    from clora_inspect.formats.findings.text import render_findings

    added = add_allow(configuration, report, reason)
    if not display.quiet:
        narrate(_what_was_added(added, report, configuration.document.name))
    if not added.refused:
        return ExitCode.OK
    print_data(render_findings(msgspec.structs.replace(report, findings=added.refused), look_of_stdout(display)))
    codes = ", ".join(dict.fromkeys(finding.code for finding in added.refused))
    narrate(
        f"error: no entry can allow {codes}: drift ends when the snapshot is accepted, a mistake in the configuration "
        "and a job that cannot be planned when they are mended"
    )
    return report.exit_code


def _what_was_added(added: Added, report: CheckReport, file: str) -> str:
    if added.entries:
        return f"Wrote {added.entries} entr{'y' if added.entries == 1 else 'ies'} to {file}"
    if added.refused:
        return f"{file} is as it was: nothing that fails can be allowed by an entry"
    if not report.findings:
        return f"{file} is as it was: there is nothing to allow"
    number = len(report.findings)
    found = "the one finding does" if number == 1 else f"the {number} findings do"
    return f"{file} is as it was: {found} not fail the check (--fail-on {report.fail_on.value})"


def _narrate_time(report: CheckReport, narration: Narration, output: Output, display: Display) -> None:
    """Print how long the check took. It is no part of the data, which is the same in every run."""
    if display.quiet or (output.format != "text" and not display.verbose):
        return
    cached = f", {narration.cached} of {len(report.jobs)} plans from the cache" if narration.cached else ""
    narrate(f"Checked in {narration.seconds:.1f} s{cached}.")
