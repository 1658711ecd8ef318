"""The walk through what waits to be reviewed: one key for each, a capital for it and all the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.cli.stdio.terminal import look_of_stdout, print_data
from clora_inspect.exit_code import ExitCode
from clora_inspect.formats.snapshot import drift_text, snapshot_text
from clora_inspect.snapshot.diff import compare
from clora_inspect.snapshot.errors import SnapshotError

if TYPE_CHECKING:
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.formats.look import Look
    from clora_inspect.snapshot.record import Snapshot
    from clora_inspect.snapshot.store import Store

KEYS = "a accept · r reject · s skip · A R S the same for all the rest · d diff · i details"
ASCII_KEYS = KEYS.replace("·", "-")


def walk(store: Store, display: Display) -> ExitCode:
    """Ask about every pending snapshot. OK when nothing waits at the end; FOUND when something was
    skipped.
    """
    look = look_of_stdout(display)
    waiting = store.pending()
    if not waiting:
        narrate("Nothing waits to be reviewed. A check leaves what it finds: clora-inspect --check")
        return ExitCode.OK
    counts = {"accepted": 0, "rejected": 0, "skipped": 0}
    rest = ""
    for number, (job, layout) in enumerate(waiting, 1):
        try:
            pending, kept = store.read_pending(job, layout), _kept(store, job, layout)
        except SnapshotError as error:
            narrate(f"error: {error}")
            counts["skipped"] += 1
            continue
        if pending is None:
            continue
        title = f"{number} of {len(waiting)} · {job} {layout}"
        answer = rest or _asked(kept, pending, layout, title, look)
        rest = answer if answer.isupper() else rest
        counts[_done(answer.lower(), store, job, layout, pending)] += 1
    narrate(", ".join(f"{count} {what}" for what, count in counts.items() if count))
    return ExitCode.FOUND if counts["skipped"] else ExitCode.OK


def _kept(store: Store, job: str, layout: str) -> Snapshot | None:
    """The accepted snapshot; an unusable one is like none: what is accepted replaces it."""
    try:
        return store.read(job, layout)
    except SnapshotError as error:
        narrate(f"warning: {error}")
        return None


def _asked(kept: Snapshot | None, pending: Snapshot, layout: str, title: str, look: Look) -> str:
    """Show one and ask until the answer is one of `arsARS`. Ctrl-C and ctrl-D end the walk."""
    _print_summary(kept, pending, title, look)
    while True:
        print_data(f"{look.paint(_keys(look))}\n")
        key = click.getchar()
        if key in ("\x03", "\x04"):
            raise click.Abort
        if key in tuple("arsARS"):
            return key
        if key == "d":
            _print_diff(kept, pending, layout, title, look)
        elif key == "i":
            print_data("".join(f"{line}\n" for line in snapshot_text.show(pending, layout, look)))


def _print_summary(kept: Snapshot | None, pending: Snapshot, title: str, look: Look) -> None:
    if kept is None:
        sums = f"new: {pending.totals.placements:,} adapters, {pending.totals.params:,} params"
    else:
        sums = drift_text.summary(compare(kept, pending), look)
    print_data(f"{look.paint(f'{title}: {sums}')}\n")


def _print_diff(kept: Snapshot | None, pending: Snapshot, layout: str, title: str, look: Look) -> None:
    lines = (
        snapshot_text.show(pending, layout, look)
        if kept is None
        else drift_text.lines(compare(kept, pending), look, title)
    )
    print_data("".join(f"{line}\n" for line in lines))


def _done(answer: str, store: Store, job: str, layout: str, pending: Snapshot) -> str:
    if answer == "a":
        store.accept(job, layout, pending)
        return "accepted"
    if answer == "r":
        store.reject(job, layout)
        return "rejected"
    return "skipped"


def _keys(look: Look) -> str:
    return KEYS if look.glyphs.dot == "·" else ASCII_KEYS
