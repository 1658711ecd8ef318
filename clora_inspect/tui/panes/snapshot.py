"""The Snapshot pane and the drift's screen: changes since the snapshot, in one module and in the
whole job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count
from clora_inspect.snapshot.drift import Change
from clora_inspect.tui.panes.lines import BLANK, Line, Link, Span, Target, Tone, keep_end, line, wrapped
from clora_inspect.tui.tree.rows import nodes_near

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.snapshot.drift import Drift, DriftLine
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow

TONES = {Change.ADDED: Tone.GOOD, Change.REMOVED: Tone.BAD, Change.CHANGED: Tone.WARN}


def drift_of(scene: Scene, row: TreeRow | None) -> list[DriftLine]:
    """Return the changes in the module of a row or below it; all changes for the model itself."""
    if scene.drift is None:
        return []
    if row is None:
        return list(scene.drift.lines)
    is_below = places_below(scene, row)
    return [each for each in scene.drift.lines if is_below(each.where)]


def places_below(scene: Scene, row: TreeRow) -> Callable[[str], bool]:
    """Return a test whether a place of the model is in the module of a row.

    A place whose module is gone counts as being in the nearest module that is still there.
    """
    nodes = scene.tree.nodes
    # A subtree is a range of nodes, and a folded row stands for several.
    subtrees = [(node, nodes.ends[node]) for node in scene.tree.nodes_of(row)]

    def is_below(place: str) -> bool:
        return any(first <= node < end for node in nodes_near(nodes, place) for first, end in subtrees)

    return is_below


def whole_job_drift(drift: Drift) -> str:
    """Return a sentence about changes that belong to no module; empty where there are none."""
    if drift.base:
        return f"The base model changed: {drift.base[0]}."
    return f"The layout changed: {drift.layout[0]}." if drift.layout else ""


def snapshot_lines(scene: Scene, row: TreeRow | None, width: int) -> list[Line]:
    """Return the pane's lines for a row of the tree; None is the model itself."""
    if scene.drift is None:
        return [line(Span("No snapshot to compare with", Tone.TITLE)), BLANK, *wrapped(scene.snapshot_note, width)]
    found = drift_of(scene, row)
    where = row.path if row else scene.name
    lines = [line(Span(keep_end(where, width), Tone.TITLE)), BLANK]
    if scene.drift.is_clean:
        return [
            *lines,
            *wrapped(
                f"Clean: all {count(scene.drift.kept)} adapters of the job are as in the snapshot.", width, Tone.GOOD
            ),
        ]
    if not found:
        lines += wrapped("Nothing changed here since the snapshot.", width)
        return [*lines, BLANK, *wrapped(f"Elsewhere in the job: {totals(scene.drift)}", width, Tone.DIM)]
    return [*lines, *change_lines(found, width)]


def diff_lines(scene: Scene, width: int) -> list[Line]:
    """Return all changes since the snapshot, for the screen that shows them."""
    drift = scene.drift
    if drift is None:
        return snapshot_lines(scene, None, width)
    lines = [line(Span(totals(drift), Tone.GOOD if drift.is_clean else Tone.TITLE)), BLANK]
    for title, sentences in (
        ("LoRA settings", drift.settings),
        ("base model", drift.base),
        ("layout", drift.layout),
    ):
        if sentences:
            lines.append(line(Span(title, Tone.TITLE)))
            for sentence in sentences:
                lines += wrapped(sentence, width, Tone.WARN, lead="~ ")
            lines.append(BLANK)
    return [*lines, *change_lines(drift.lines, width)]


def totals(drift: Drift) -> str:
    """Return a sum such as `32 removed, 192 kept · 41,943,040 → 32,505,856 parameters`."""
    words = [
        f"{count(number)} {word}"
        for word, number in (
            ("added", drift.added),
            ("removed", drift.removed),
            ("changed", drift.changed),
            ("kept", drift.kept),
        )
        if number
    ]
    params = count(drift.params_before)
    if drift.params_after != drift.params_before:
        params += f" → {count(drift.params_after)}"
    return f"{', '.join(words) or 'no adapters'} · {params} parameters"


def change_lines(changes: tuple[DriftLine, ...] | list[DriftLine], width: int) -> list[Line]:
    """Return each change with its place as a link, and the adapters before and after it."""
    lines: list[Line] = []
    for each in changes:
        tone = TONES[each.change]
        number = f"{count(each.count)} {each.change}"
        room = max(width - len(number) - 5, 20)
        where = keep_end(each.where, room)
        lines.append(
            line(
                Span(f"{each.change.mark} ", tone),
                Span(where, Tone.PLAIN, Link(Target.NODE, each.where)),
                "  ",
                Span(number, tone),
            )
        )
        if each.was:
            lines += wrapped(f"was at {each.was}", width, Tone.DIM, lead="    ")
        # A renamed module may have the same adapter before and after.
        if each.before and each.after and each.before != each.after:
            lines += wrapped(f"was {each.before}", width, Tone.DIM, lead="    ")
            lines += wrapped(f"is {each.after}", width, Tone.DIM, lead="    ")
        else:
            lines += wrapped(
                f"{each.after or each.before or ''} · {each.params:+,} parameters", width, Tone.DIM, lead="    "
            )
    return lines
