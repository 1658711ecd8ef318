"""`clora-inspect diff A [B]`: compare two plans, snapshots or jobs, or a job with its snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clora_inspect.cli.job.chosen_jobs import chosen_jobs
from clora_inspect.cli.options.base import Command
from clora_inspect.cli.options.completion import complete_job
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.config.load import Configuration
    from clora_inspect.formats.look import Look
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.snapshot.record import Snapshot

Side = tuple[str, "Snapshot"]
"""One of two things that are compared: its label, and its adapters."""


@click.command(cls=Command)
@click.argument("a", shell_complete=complete_job)
@click.argument("b", required=False, shell_complete=complete_job)
@output_options(("text", "json"), {".json": "json"})
@config_options
@display_options
@click.pass_context
def diff(context: click.Context, *, a: str, b: str | None, output: Output) -> ExitCode:
    r"""Show the changes from A to B: saved plans, snapshots or jobs (JOB, or JOB/LAYOUT). Without
    B, show the drift of the job A from its snapshots.

    \b
    clora-inspect diff llama3-8b
    clora-inspect diff llama3-8b/train llama3-8b/serve
    clora-inspect diff old-plan.json snapshots/llama3-8b/train.json

    Exits with 1 when there are changes.
    """
    from clora_inspect.snapshot.diff import compare

    display = display_of(context)
    configuration = configuration_of(context)
    pairs = (
        _with_snapshots(configuration, a, display)
        if b is None
        else [(_side(configuration, a, display), _side(configuration, b, display))]
    )
    drifts = [(f"{before[0]} to {after[0]}", compare(before[1], after[1])) for before, after in pairs]
    output.write(lambda look: _json(drifts) if output.format == "json" else _text(drifts, look), display)
    return ExitCode.OK if all(drift.is_clean for _, drift in drifts) else ExitCode.FOUND


def _with_snapshots(configuration: Configuration, name: str, display: Display) -> list[tuple[Side, Side]]:
    """Pair every layout of a job with its snapshot.

    Raises:
        UsageError: `name` is a saved file.
        SnapshotError: a layout has no snapshot.
    """
    from clora_inspect.config.job_name import saved_file
    from clora_inspect.snapshot.errors import SnapshotError

    saved = saved_file(name)
    if saved is not None:
        raise click.UsageError(
            f"{name} is a {saved.holds}: name what to compare it with, as in clora-inspect diff {name} JOB"
        )
    store = configuration.store
    pairs = []
    for label, key, now in _planned(configuration, name, display):
        before = store.read(*key)
        if before is None:
            raise SnapshotError(
                f"there is no snapshot {store.name(store.path(*key))} to compare with. "
                f"Accept one: {store.accept_command(key[0])}"
            )
        pairs.append(((f"snapshot of {label}", before), ("now", now)))
    return pairs


def _side(configuration: Configuration, name: str, display: Display) -> Side:
    """Read or plan what `name` means.

    Raises:
        UsageError: a job with several layouts.
    """
    from clora_inspect.config.job_name import saved_file
    from clora_inspect.snapshot.record import take

    saved = saved_file(name)
    if saved is not None:
        if saved.holds == "snapshot":
            return saved.path.name, saved.snapshot()
        # A saved plan does not keep the name of its job.
        plan = saved.plan()
        return saved.path.name, take(plan, plan.model_source)
    found = _planned(configuration, name, display)
    if len(found) > 1:
        # A label reads `job layout`; as JOB it is typed `job/layout`.
        labels = ", ".join(label.replace(" ", "/") for label, _, _ in found)
        raise click.UsageError(f"{name} has several layouts. Name one of {labels}.")
    label, _, now = found[0]
    return label, now


def _planned(configuration: Configuration, name: str, display: Display) -> list[tuple[str, tuple[str, str], Snapshot]]:
    """Plan a job on all its layouts: of each the label, the key in the store, and the snapshot."""
    from clora_inspect.check.planning import plan_all
    from clora_inspect.cli.stdio.progress import progress
    from clora_inspect.snapshot.record import take

    with progress(display) as notify:
        planned = plan_all(configuration, chosen_jobs(configuration, [name]), cache=True, notify=notify)
    for one in planned:
        # A diff needs both sides, so the first job that cannot be planned ends it.
        if one.error is not None:
            raise one.error
    return [(one.job.label, one.job.key, take(one.plan, one.job.name)) for one in planned if one.plan is not None]


def _text(drifts: list[tuple[str, Drift]], look: Look) -> str:
    from clora_inspect.formats.snapshot.drift_text import lines

    return "\n".join("".join(f"{line}\n" for line in lines(drift, look, title)) for title, drift in drifts)


def _json(drifts: list[tuple[str, Drift]]) -> str:
    import msgspec

    documents: list[dict[str, Any]] = [{"of": title, **msgspec.to_builtins(drift)} for title, drift in drifts]
    return msgspec.json.format(msgspec.json.encode({"schema": 1, "diffs": documents}), indent=1).decode() + "\n"
