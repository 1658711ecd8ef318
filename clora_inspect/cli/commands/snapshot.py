"""`clora-inspect snapshot accept | review | list | show | prune`.

A snapshot is a file with the adapters of a job on one layout, as somebody accepted them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from clora_inspect.cli.job.chosen_jobs import chosen_jobs
from clora_inspect.cli.options.base import Command, Group, Option
from clora_inspect.cli.options.completion import complete_configured_job, complete_layout
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.key_path import KeyPath
    from clora_inspect.config.load import Configuration
    from clora_inspect.formats.look import Look
    from clora_inspect.formats.snapshot.snapshot_text import Listed
    from clora_inspect.snapshot.store import Store

WITHOUT_TERMINAL = (
    "clora-inspect diff JOB              show its drift",
    "clora-inspect snapshot accept JOB   accept it as it is now",
    "clora-inspect snapshot accept       accept all jobs",
    "clora-inspect snapshot prune        remove what waits, and what belongs to no job",
)
"""Commands that `review` suggests where there is no terminal, each with what it does."""


@click.group(cls=Group)
def snapshot() -> None:
    """Snapshots: the adapters of every job as they were accepted, one file for each layout."""


def _subcommand(function: Callable[..., Any]) -> click.Command:
    """Make a command of this group, with the options that all of them have."""
    # `list_` has an underscore because `list` is a type of Python.
    named = snapshot.command(name=function.__name__.rstrip("_"), cls=Command)
    directory = click.option(
        "--snapshot-dir",
        cls=Option,
        group="Snapshot",
        metavar="DIR",
        help="Folder of the snapshots; default: snapshots.",
    )
    return named(directory(config_options(display_options(function))))


_jobs = click.argument("jobs", metavar="[JOB]...", nargs=-1, shell_complete=complete_configured_job)
_layout = click.option(
    "--layout",
    cls=Option,
    group="Job",
    metavar="NAME",
    shell_complete=complete_layout,
    help="Only the layout NAME.",
)


@_subcommand
@_jobs
@_layout
@click.option(
    "--no-cache",
    is_flag=True,
    cls=Option,
    group="Snapshot",
    help="Plan every job again, and write no plans to the cache.",
)
@click.option("--no-code", is_flag=True, cls=Option, group="Job", help="Refuse jobs whose model a function makes.")
@click.pass_context
def accept(
    context: click.Context,
    *,
    jobs: tuple[str, ...],
    layout: str | None,
    no_cache: bool,
    no_code: bool,
    snapshot_dir: str | None,
) -> ExitCode:
    """Accept the adapters of the JOBs, or of all configured jobs, as they are now."""
    from clora_inspect.check.planning import plan_all
    from clora_inspect.cli.stdio.failure import status_of
    from clora_inspect.cli.stdio.progress import progress
    from clora_inspect.snapshot.errors import SnapshotError
    from clora_inspect.snapshot.record import take
    from clora_inspect.sources.errors import BuildError

    display = display_of(context)
    configuration, store = _store(context, snapshot_dir)
    chosen = chosen_jobs(configuration, jobs, layout)
    with progress(display) as notify:
        planned = plan_all(configuration, chosen, cache=not no_cache, code=not no_code, notify=notify, announce=narrate)
    # A job that cannot be planned does not keep the others from being accepted.
    worst = ExitCode.OK
    for one in planned:
        if one.plan is None:
            # A function that fails is a finding of a check. It keeps this command from its work.
            worst = max(worst, ExitCode.BUILD if isinstance(one.error, BuildError) else one.exit_code)
            narrate(f"error: {one.job.label}: {one.failure.message if one.failure else ''}")
            continue
        try:
            path = store.accept(*one.job.key, take(one.plan, one.job.name))
        except SnapshotError as error:
            worst = max(worst, ExitCode(status_of(error)))
            narrate(f"error: {one.job.label}: {error}")
            continue
        if not display.quiet:
            narrate(f"Accepted {store.name(path)}")
    return worst


@_subcommand
@click.pass_context
def review(context: click.Context, *, snapshot_dir: str | None) -> ExitCode:
    """Accept, reject or skip, one by one, the snapshots that wait for it. Needs a terminal."""
    from clora_inspect.cli.commands.review import review_pending

    display = display_of(context)
    _, store = _store(context, snapshot_dir)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        commands = "\n".join(f"  {command}" for command in WITHOUT_TERMINAL)
        raise click.UsageError(f"review asks questions, so it needs a terminal. Without one:\n{commands}", context)
    return review_pending(store, display)


@_subcommand
@output_options(("text", "json"), {".json": "json"})
@click.pass_context
def list_(context: click.Context, *, output: Output, snapshot_dir: str | None) -> ExitCode:
    """List all snapshots, those that wait to be reviewed, and jobs without one."""
    from clora_inspect.formats.snapshot.snapshot_text import listing

    configuration, store = _store(context, snapshot_dir)
    rows = _listed(configuration, store)
    if output.format == "json":
        output.write(lambda _look: _json([_listed_json(row) for row in rows]), display_of(context))
    else:
        output.write(
            lambda look: "".join(f"{line}\n" for line in listing(rows, look)) if rows else "", display_of(context)
        )
        if not rows:
            narrate(f"There is no snapshot in {store.name(store.folder)}.")
    return ExitCode.OK


@_subcommand
@click.argument("job", shell_complete=complete_configured_job)
@_layout
@click.option(
    "--pending", is_flag=True, cls=Option, group="Snapshot", help="Show the one that waits to be reviewed instead."
)
@output_options(("text", "json"), {".json": "json"})
@click.pass_context
def show(
    context: click.Context, *, job: str, layout: str | None, pending: bool, output: Output, snapshot_dir: str | None
) -> ExitCode:
    """Show the snapshots of JOB, or the one of JOB/LAYOUT. Equal layers are folded."""
    from clora_inspect.formats.snapshot.snapshot_text import show as lines
    from clora_inspect.snapshot.errors import SnapshotError
    from clora_inspect.snapshot.record import encode

    _, store = _store(context, snapshot_dir)
    name, slash, layout_in_name = job.partition("/")
    wanted = layout_in_name if slash else layout
    found = [
        key for key in (store.pending() if pending else store.kept()) if key[0] == name and wanted in (None, key[1])
    ]
    if not found:
        have = ", ".join("/".join(key) for key in store.kept()) or "none"
        raise SnapshotError(f"there is no snapshot of {job}{' to be reviewed' if pending else ''}. There are: {have}.")
    read = store.read_pending if pending else store.read
    shown = [(key[1], one) for key in found if (one := read(*key)) is not None]

    def text(look: Look) -> str:
        return "\n".join("".join(f"{line}\n" for line in lines(one, name, look)) for name, one in shown)

    def document(_look: Look) -> str:
        return "".join(encode(one).decode() for _, one in shown)

    output.write(document if output.format == "json" else text, display_of(context))
    return ExitCode.OK


@_subcommand
@click.option(
    "--dry-run", is_flag=True, cls=Option, group="Snapshot", help="Print what would be removed, and remove nothing."
)
@click.pass_context
def prune(context: click.Context, *, dry_run: bool, snapshot_dir: str | None) -> ExitCode:
    """Remove snapshots of no configured job, and all that wait to be reviewed.

    Other files stay, and so does a folder outside of the repository, unless --snapshot-dir names
    it.
    """
    from clora_inspect.config.jobs import configured_jobs

    configuration, store = _store(context, snapshot_dir)
    store.require_within()
    known = {job.key for job in configured_jobs(configuration)}
    # All of them: a check writes those that are still needed again.
    for job, layout in store.pending():
        if store.may_delete(store.pending_path(job, layout)):
            narrate(f"{'Would drop' if dry_run else 'Dropped'} {store.name(store.pending_path(job, layout))}")
            if not dry_run:
                store.reject(job, layout)
    for job, layout in store.kept():
        if (job, layout) not in known and store.may_delete(store.path(job, layout)):
            narrate(f"{'Would remove' if dry_run else 'Removed'} {store.name(store.path(job, layout))}")
            if not dry_run:
                store.remove(job, layout)
    return ExitCode.OK


def _store(context: click.Context, snapshot_dir: str | None) -> tuple[Configuration, Store]:
    from pathlib import Path

    # A typed path is relative to the current folder, a path in the file to the folder of the file.
    options: dict[KeyPath, tuple[str, Any]] = {}
    if snapshot_dir:
        options["snapshots",] = ("--snapshot-dir", str(Path.cwd() / snapshot_dir))
    configuration = configuration_of(context, options)
    return configuration, configuration.store


def _listed(configuration: Configuration, store: Store) -> list[Listed]:
    from clora_inspect.config.jobs import configured_jobs
    from clora_inspect.formats.snapshot.snapshot_text import Listed
    from clora_inspect.snapshot.errors import SnapshotError

    jobs: list[ConfiguredJob] = configured_jobs(configuration)
    known = {job.key for job in jobs}
    kept = set(store.kept())
    pending = {key for key in store.pending() if store.may_delete(store.pending_path(*key))}
    strangers = pending | {key for key in kept if store.may_delete(store.path(*key))}
    rows = []
    # Configured jobs keep the order of the configuration. Files that belong to none come last.
    for key in [*(job.key for job in jobs), *sorted(strangers - known)]:
        state = "accepted" if key in kept else "missing"
        state = "belongs to no job" if key not in known else state
        if key in pending:
            state += ", to be reviewed"
        try:
            rows.append(Listed(*key, store.read(*key), state))
        except SnapshotError as error:
            # A damaged file is a row of the list as well: the others are still of use.
            rows.append(Listed(*key, None, str(error)))
    return rows


def _listed_json(row: Listed) -> dict[str, Any]:
    totals = row.snapshot.totals if row.snapshot else None
    return {
        "job": row.job,
        "layout": row.layout,
        "state": row.state,
        "placements": totals.placements if totals else None,
        "params": totals.params if totals else None,
    }


def _json(value: Any) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n"
