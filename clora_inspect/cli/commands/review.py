"""Ask about each snapshot that waits to be reviewed: accept, reject or skip it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.cli.stdio.terminal import look_of_stdout, print_data
from clora_inspect.exit_code import ExitCode
from clora_inspect.formats.look import Style
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


def review_pending(store: Store, display: Display) -> ExitCode:
    """Ask about every pending snapshot.

    Returns:
        OK when none waits any more, FOUND when one was skipped.
    """
    look = look_of_stdout(display)
    waiting = [key for key in store.pending() if store.may_delete(store.pending_path(*key))]
    if not waiting:
        narrate("Nothing waits to be reviewed. A check writes what has changed: clora-inspect --check")
        return ExitCode.OK
    counts = {"accepted": 0, "rejected": 0, "skipped": 0}
    answer_for_rest = ""
    for number, (job, layout) in enumerate(waiting, 1):
        try:
            pending, accepted = store.read_pending(job, layout), _accepted(store, job, layout)
        except SnapshotError as error:
            narrate(f"error: {error}")
            counts["skipped"] += 1
            continue
        # Somebody else has accepted or rejected it since the list was made.
        if pending is None:
            continue
        title = f"{number} of {len(waiting)} · {job} {layout}"
        answer = answer_for_rest or _ask(accepted, pending, layout, title, look)
        # A capital letter answers for all the rest.
        if answer.isupper():
            answer_for_rest = answer
        counts[_apply(answer.lower(), store, job, layout, pending)] += 1
    narrate(", ".join(f"{count} {what}" for what, count in counts.items() if count))
    return ExitCode.FOUND if counts["skipped"] else ExitCode.OK


def _accepted(store: Store, job: str, layout: str) -> Snapshot | None:
    """Return the accepted snapshot, or None when it is damaged: the pending one may replace it."""
    try:
        return store.read(job, layout)
    except SnapshotError as error:
        narrate(f"warning: {error}")
        return None


def _ask(accepted: Snapshot | None, pending: Snapshot, layout: str, title: str, look: Look) -> str:
    """Show one snapshot and ask until the answer is one of `arsARS`.

    Raises:
        Abort: ctrl-C or ctrl-D was pressed.
    """
    _print_diff(accepted, pending, layout, title, look)
    while True:
        print_data(f"{look.paint(_keys(look))}\n")
        key = click.getchar()
        # `getchar` makes the terminal raw, so these two are characters and not signals.
        if key in ("\x03", "\x04"):
            raise click.Abort
        if key in tuple("arsARS"):
            return key
        if key == "d":
            _print_diff(accepted, pending, layout, title, look)
        elif key == "i":
            print_data("".join(f"{line}\n" for line in snapshot_text.show(pending, layout, look)))


def _print_diff(accepted: Snapshot | None, pending: Snapshot, layout: str, title: str, look: Look) -> None:
    if accepted is None:
        print_data(f"{look.paint(f'{title}: new, there is no accepted snapshot', Style.BOLD)}\n")
        lines = snapshot_text.show(pending, layout, look)
    else:
        lines = drift_text.lines(compare(accepted, pending), look, title)
    print_data("".join(f"{line}\n" for line in lines))


def _apply(answer: str, store: Store, job: str, layout: str, pending: Snapshot) -> str:
    if answer == "a":
        store.accept(job, layout, pending)
        return "accepted"
    if answer == "r":
        store.reject(job, layout)
        return "rejected"
    return "skipped"


def _keys(look: Look) -> str:
    return KEYS if look.glyphs.dot == "·" else ASCII_KEYS
