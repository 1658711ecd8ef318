"""One row of the tree as a line: fold mark, glyph, name, and its status in words at the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import Fate
from clora_inspect.formats.quantities import count
from clora_inspect.tui.panes import fates
from clora_inspect.tui.panes.lines import Line, Span, Tone, keep_end, keep_start, line
from clora_inspect.tui.tree.rows import DRIFTED, FOUND, WRONG

if TYPE_CHECKING:
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow


def root_line(scene: Scene, width: int) -> Line:
    adapters = scene.tree.nodes.adapters[0]
    note = f"{count(adapters)} adapters" if adapters != 1 else "1 adapter"
    return _aligned(
        [Span("  "), Span(keep_end(scene.name, max(width - len(note) - 4, 4)), Tone.TITLE)],
        [Span(note, Tone.TITLE)],
        width,
    )


def row_line(scene: Scene, row: TreeRow, width: int) -> Line:
    """Return a row of the tree, filled with blanks to `width` cells."""
    nodes = scene.tree.nodes
    fate = nodes.fates[row.node]
    mark = "▼ " if row.is_open else "▶ " if row.has_children else "  "
    glyph = f"{sign} " if (sign := fates.glyph(nodes, row.node)) else ""
    indent = "  " * row.depth
    note = _note(scene, row)
    room = width - len(indent) - len(mark) - len(glyph)
    notes_width = sum(len(span.text) for span in note)
    # The indent shows that a row is a part of the linear above it; the brackets are not needed.
    label = row.label.strip("[]") if row.label.startswith("[") else row.label
    if len(label) + 2 + notes_width > room:
        # The name is more important than the status, and its end more important than its beginning.
        left = max(room - len(label) - 2, 0)
        note = [Span(keep_start("".join(span.text for span in note), left), note[-1].tone)] if left > 3 and note else []
        label = keep_end(label, room)
    tone = Tone.DIM if fate is Fate.NOT_ADAPTABLE else Tone.PLAIN
    spans = [Span(f"{indent}{mark}", Tone.DIM), Span(glyph, fates.tone(nodes, row.node)), Span(label, tone)]
    return _aligned(spans, note, width)


def _note(scene: Scene, row: TreeRow) -> list[Span]:
    nodes = scene.tree.nodes
    spans: list[Span] = []
    # A closed row shows the marks of everything below it: nothing else on the screen would.
    marks = scene.tree.marks_of(row.node) if not row.is_open else scene.tree.own_marks(row.node)
    if marks & FOUND:
        spans.append(Span("✖ error ", Tone.BAD) if marks & WRONG else Span("ℹ finding "))
    if marks & DRIFTED:
        spans.append(Span("↕ drifted ", Tone.WARN))
    if nodes.fates[row.node] is not Fate.NO_PARAMETERS:
        return [*spans, Span(fates.words(nodes, row.node), fates.tone(nodes, row.node))]
    adapters = nodes.adapters[row.node] * row.times
    unadapted = nodes.unadapted[row.node] * row.times
    if adapters:
        words = f"{count(adapters)} adapter{'s' if adapters > 1 else ''}"
        return [*spans, Span(words, Tone.DIM)]
    return [*spans, Span("no adapter", Tone.DIM)] if unadapted else spans


def _aligned(left: list[Span], right: list[Span], width: int) -> Line:
    used = sum(len(span.text) for span in (*left, *right))
    return line(*left, " " * max(width - used, 1 if right else 0), *right)
