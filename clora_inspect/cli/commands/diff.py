"""`clora-inspect diff A [B]`: compare two plans, snapshots or jobs, or a job with its snapshot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from clora_inspect.cli.job.chosen_jobs import chosen_jobs
from clora_inspect.cli.options.base import Command
from clora_inspect.cli.options.completion import complete_job
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import job_change_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.config.job_request import JobRequest
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.formats.look import Look
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.snapshot.record import Snapshot

Side = tuple[str, "Snapshot"]
"""One of two things that are compared: its label, and its adapters."""


@click.command(cls=Command)
@click.argument("a", shell_complete=complete_job)
@click.argument("b", required=False, shell_complete=complete_job)
@job_change_options
@output_options(("text", "json"), {".json": "json"})
@config_options
@display_options
@click.pass_context
def diff(context: click.Context, *, a: str, b: str | None, request: JobRequest, output: Output) -> ExitCode:
    r"""Show the changes from A to B: saved plans, snapshots or jobs (JOB, or JOB/LAYOUT). Without
    B, show the drift of the job A from its snapshots; with --implementation megatron-bridge, what
    Megatron-Bridge does to the job A in another way than clora, and why.

    \b
    clora-inspect diff llama3-8b
    clora-inspect diff llama3-8b/train llama3-8b/serve
    clora-inspect diff old-plan.json snapshots/llama3-8b/train.json
    clora-inspect diff qwen3-30b-a3b --tp 2 --implementation megatron-bridge

    Options of the job change the jobs among A and B. Exits with 1 when there are changes.
    """
    from clora_inspect.snapshot.bridge_reasons import explained
    from clora_inspect.snapshot.diff import compare

    display = display_of(context)
    output.keep(a, b, request.lora_name)
    planner = _Planner(configuration_of(context), request, display)
    beside_bridge = b is None and request.implementation == "megatron-bridge"
    if beside_bridge:
        pairs = planner.beside_bridge(a)
    elif b is None:
        pairs = planner.with_snapshots(a)
    else:
        pairs = [(planner.side(a), planner.side(b))]
    drifts = [(f"{before[0]} to {after[0]}", compare(before[1], after[1])) for before, after in pairs]
    if beside_bridge:
        drifts = [
            (title, explained(drift, before[1], after[1]))
            for (title, drift), (before, after) in zip(drifts, pairs, strict=True)
        ]
    output.write(lambda look: _json(drifts) if output.format == "json" else _text(drifts, look), display)
    return ExitCode.OK if all(drift.is_clean for _, drift in drifts) else ExitCode.FOUND


@dataclass(frozen=True, slots=True)
class _Planner:
    """Plans what is compared, or reads it."""

    configuration: Configuration
    request: JobRequest
    display: Display

    def beside_bridge(self, name: str) -> list[tuple[Side, Side]]:
        """Pair clora's plan of every layout of a job with that of the installed Megatron-Bridge.

        Raises:
            UsageError: `name` is a saved file.
            DeviceError: Megatron-Bridge is not installed.
            BridgeSurgeryError: it raises while it adapts the model.
        """
        from clora_inspect.bridge.installed import DISTRIBUTION, release

        self._refuse_saved(name, f"name a job: clora-inspect diff JOB --implementation {DISTRIBUTION}")
        theirs = f"{DISTRIBUTION} {release()}"
        jobs = self._jobs(name)
        ours = [replace(job, job=replace(job.job, planned_by="clora")) for job in jobs]
        return [
            ((f"{label}: clora", before), (theirs, after))
            for (label, _, before), (_, _, after) in zip(self._plans(ours), self._plans(jobs), strict=True)
        ]

    def with_snapshots(self, name: str) -> list[tuple[Side, Side]]:
        """Pair every layout of a job with its snapshot.

        Raises:
            UsageError: `name` is a saved file.
            SnapshotError: a layout has no snapshot.
        """
        from clora_inspect.snapshot.errors import SnapshotError

        self._refuse_saved(name, f"name what to compare it with, as in clora-inspect diff {name} JOB")
        store = self.configuration.store
        pairs = []
        for label, key, now in self._plans(self._jobs(name)):
            before = store.read(*key)
            if before is None:
                raise SnapshotError(
                    f"there is no snapshot {store.name(store.path(*key))} to compare with. "
                    f"Accept one: {store.accept_command(key[0])}"
                )
            pairs.append(((f"snapshot of {label}", before), ("now", now)))
        return pairs

    def side(self, name: str) -> Side:
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
        found = self._plans(self._jobs(name))
        if len(found) > 1:
            # A label reads `job layout`; as JOB it is typed `job/layout`.
            labels = ", ".join(label.replace(" ", "/") for label, _, _ in found)
            raise click.UsageError(f"{name} has several layouts. Name one of {labels}.")
        label, _, now = found[0]
        return label, now

    def _refuse_saved(self, name: str, instead: str) -> None:
        from clora_inspect.config.job_name import saved_file

        saved = saved_file(name)
        if saved is not None:
            raise click.UsageError(f"{name} is a {saved.holds}: {instead}")

    def _jobs(self, name: str) -> list[ConfiguredJob]:
        return chosen_jobs(self.configuration, [name], self.request.layout_name, self.request)

    def _plans(self, jobs: list[ConfiguredJob]) -> list[tuple[str, tuple[str, str], Snapshot]]:
        """Plan `jobs`: of each the label, the key in the store, and the snapshot."""
        from clora_inspect.check.planning import plan_all
        from clora_inspect.cli.stdio.progress import progress
        from clora_inspect.snapshot.record import take

        with progress(self.display) as notify:
            planned = plan_all(self.configuration, jobs, cache=True, notify=notify, announce=narrate)
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
