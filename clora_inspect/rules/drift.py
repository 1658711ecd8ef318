"""CL7, drift: what a plan has that its snapshot has not, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora_inspect.job.finding import Location, Severity
from clora_inspect.rules.base import Needs, Rule
from clora_inspect.snapshot.drift import Change

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.job.finding import Finding
    from clora_inspect.snapshot.drift import Drift, DriftLine

_MARKS = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~"}


class DriftRule(Rule):
    """What the rules of this family have in common: they look at a `Drift`, not at a plan."""

    needs = Needs.SNAPSHOT
    severity = Severity.ERROR

    @classmethod
    def about(
        cls,
        message: str,
        *,
        job: str,
        layout: str,
        snapshot: str,
        fix: str | None,
        details: Iterable[str] = (),
        where: str | None = None,
    ) -> Finding:
        """A finding of this rule about the snapshot of one layout of one job; `snapshot` is its
        file.
        """
        found = cls.found(message, fix=fix, details=details, where=where, location=Location(file=snapshot))
        return msgspec.structs.replace(found, job=job, layout=layout)


class MissingSnapshot(DriftRule):
    """A job has no snapshot: nobody has said yet that its adapters are right, so no later change of
    them can be noticed.

    Look at the plan, and when it is what you mean, accept it and commit the file.

    Bad: a job in the configuration, and no `snapshots/JOB/LAYOUT.json`.
    Good: `clora-inspect snapshot accept JOB`, and the file in the commit.
    With `require-snapshot = false` under `[check]` this rule does not run.
    """

    code = "CL701"
    name = "missing-snapshot"


class PlacementAdded(DriftRule):
    """The plan has adapters that the snapshot has not: something is adapted now that was not when
    the snapshot was accepted.

    Targets, exclusions, the model or the code that matches them changed. What costs memory and
    trains is more than was reviewed.

    Bad: a wider pattern in `target_modules` that nobody meant.
    Good: the change is meant, and `clora-inspect snapshot accept JOB` goes into the same commit.
    """

    code = "CL702"
    name = "placement-added"


class PlacementRemoved(DriftRule):
    """The snapshot has adapters that the plan has not: something that was trained is not any more.

    Often a typo in a target, or modules that have another name in a newer release. The loss still
    goes down, only less.

    Bad: `target_modules = ["linear_fc1_gat", ...]` where the snapshot has `linear_fc1[gate]`.
    Good: the change is meant, and `clora-inspect snapshot accept JOB` goes into the same commit.
    """

    code = "CL703"
    name = "placement-removed"


class PlacementChanged(DriftRule):
    """The same adapters look different: another rank, another shape, another sharding, or another
    name; or a LoRA setting changed.

    Adapter checkpoints of before do not load into the adapters of now. Sharding that changes is the
    layout's doing.

    Bad: `dim` changed from 16 to 32 between two runs that should resume each other.
    Good: the change is meant, and `clora-inspect snapshot accept JOB` goes into the same commit.
    """

    code = "CL704"
    name = "placement-changed"


class BaseModelChanged(DriftRule):
    """The base model is another one: its modules, their classes or their sizes changed since the
    snapshot.

    Told apart from adapters that changed: here the model or megatron-core did. An adapter trained
    on the old base does not fit the new one, and patterns with layer numbers may mean other layers
    (a GPT block becomes two layers of a hybrid model).

    Bad: an upgrade that rearranges the module tree, unnoticed.
    Good: the new tree was looked at, and `clora-inspect snapshot accept JOB` goes into the same
    commit.
    """

    code = "CL705"
    name = "base-model-changed"


class LayoutChanged(DriftRule):
    """The layout of that name has other sizes than when the snapshot was accepted.

    The adapters of the whole model may be the same; each rank's share of them is not.

    Bad: `train = { tp = 8 }` where the snapshot was accepted for `tp = 4`.
    Good: the change is meant, and `clora-inspect snapshot accept JOB` goes into the same commit.
    """

    code = "CL706"
    name = "layout-changed"


class OrphanSnapshot(DriftRule):
    """A snapshot belongs to no job: the job or the layout was renamed or removed, and nothing
    checks the file any more.

    Bad: `snapshots/llama3-8b/train.json` without a job `llama3-8b` that has a layout `train`.
    Good: `clora-inspect snapshot prune` removes it; it is never removed by a check.
    """

    code = "CL707"
    name = "orphan-snapshot"
    severity = Severity.WARNING


class SnapshotUnusable(DriftRule):
    """A snapshot cannot be read: it is damaged, edited by hand, in the middle of a merge, or
    written by a newer version.

    Bad: `<<<<<<<` in the file after a merge.
    Good: restore it from the repository's history, or look at the plan and accept it anew.
    """

    code = "CL708"
    name = "snapshot-schema"


def drift_findings(drift: Drift, *, job: str, layout: str, snapshot: str) -> Iterator[Finding]:
    """Everything that `drift` has to say about one snapshot."""
    accept = f"meant? clora-inspect snapshot accept {job}"

    def found(rule: type[DriftRule], message: str, lines: Iterable[str] = (), where: str | None = None) -> Finding:
        return rule.about(message, job=job, layout=layout, snapshot=snapshot, fix=accept, details=lines, where=where)

    if drift.layout:
        yield found(LayoutChanged, f'the layout "{layout}" is not the one of the snapshot: {", ".join(drift.layout)}')
    if drift.base:
        yield found(BaseModelChanged, "the base model is not the one of the snapshot", drift.base)
    for rule, change, count, said in (
        (PlacementRemoved, Change.REMOVED, drift.removed, "in the snapshot and not in the plan"),
        (PlacementAdded, Change.ADDED, drift.added, "in the plan and not in the snapshot"),
        (PlacementChanged, Change.CHANGED, drift.changed, "not as the snapshot has {them}"),
    ):
        lines = [line for line in drift.lines if line.change is change]
        if count:
            message = f"{count:,} placements are {said}" if count > 1 else f"1 placement is {said}"
            where = lines[0].where if len(lines) == 1 else None
            yield found(rule, message.replace("{them}", "them" if count > 1 else "it"), _details(lines), where)
    if drift.settings and not (drift.changed and _shown(drift)):
        yield found(PlacementChanged, f"LoRA settings are not those of the snapshot: {', '.join(drift.settings)}")


def _shown(drift: Drift) -> bool:
    """Whether the settings that differ are the rank alone, which the placements that changed show."""
    return all(setting.startswith("dim ") for setting in drift.settings)


def _details(lines: list[DriftLine]) -> Iterator[str]:
    """One line for each group of placements, in columns."""
    cells = [
        (f"{_MARKS[line.change]} {line.where}", _what(line), f"{line.params:+,}" if line.params else "")
        for line in lines
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(2)] if cells else []
    for place, what, params in cells:
        yield f"{place.ljust(widths[0])}   {what.ljust(widths[1])}   {params}".rstrip()


def _what(line: DriftLine) -> str:
    """`rank 16, ...`; of what changed only what differs."""
    if line.before is None or line.after is None:
        return line.before or line.after or ""
    before, after = line.before.split(", "), line.after.split(", ")
    if len(before) == len(after):
        differing = [f"{was} -> {_value(was, now)}" for was, now in zip(before, after, strict=True) if was != now]
    else:
        differing = [f"{line.before} -> {line.after}"]
    renamed = [f"was {line.was}"] if line.was else []
    return ", ".join([*renamed, *differing])


def _value(was: str, now: str) -> str:
    """`32` for `rank 32` behind `rank 16`."""
    name = was.rpartition(" ")[0] + " "
    return now.removeprefix(name)
