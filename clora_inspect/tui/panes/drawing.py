"""Draw a linear and its adapters: the path of `x` through both, with shapes and scale.

x ─┬─▶ linear_fc1 (frozen) ──────────────────────────────▶ + ─▶ y
   └─▶ A 4 × 4096 ─▶ B 3584 × 16 ─▶ × 2 ─▶ up ───────────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.tui.panes.lines import Line, Span, Tone, line, width_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora.plan import Placement


@dataclass(frozen=True, slots=True)
class Branch:
    """One adapter beside the frozen linear, as text."""

    a: str
    b: str
    scale: str
    part: str | None
    note: str = ""


def branch(placement: Placement) -> Branch:
    """Return the texts of an adapter, with the shapes of one rank."""
    experts = placement.experts
    note = ""
    if experts is not None and not experts.per_expert and experts.num_local_experts > 1:
        note = f"the {experts.num_local_experts} experts of a rank share it"
    return Branch(shape(placement.a_shape), shape(placement.b_shape), f"{placement.scale:g}", placement.part, note)


def shape(sizes: Sequence[int]) -> str:
    """Write a tensor's shape as `4 × 4096`."""
    return " × ".join(map(str, sizes))


def drawing(base: str, branches: Sequence[Branch], width: int) -> list[Line]:
    """Draw a linear and its adapters: in columns where they fit, else with two lines per adapter.

    Args:
        base: the name of the frozen linear.
        branches: its adapters; with none the linear is drawn alone.
        width: largest width of a line, in cells. The form with two lines may exceed it on a tiny
            terminal.
    """
    if not branches:
        return [line("x ──▶ ", base, Span(" (frozen)", Tone.DIM), " ──▶ y")]
    return _in_columns(base, branches, width) or _stacked(base, branches)


def _in_columns(base: str, branches: Sequence[Branch], width: int) -> list[Line]:
    a_width, b_width, s_width = (
        max(len(text) for text in texts)
        for texts in zip(*((each.a, each.b, each.scale) for each in branches), strict=True)
    )
    part_width = max(len(each.part or "") for each in branches)
    rows = []
    for number, each in enumerate(branches):
        spans = [
            Span("   └─▶ " if number == len(branches) - 1 else "   ├─▶ "),
            Span("A ", Tone.TITLE),
            Span(each.a.rjust(a_width), Tone.GOOD),
            Span(" ─▶ "),
            Span("B ", Tone.TITLE),
            Span(each.b.rjust(b_width), Tone.GOOD),
            Span(f" ─▶ × {each.scale.rjust(s_width)} "),
        ]
        # A linear that is not fused has one adapter without a part.
        if part_width:
            spans += [Span("─▶ "), Span((each.part or "").ljust(part_width), Tone.TITLE), Span(" ")]
        rows.append(spans)
    top = [Span("x ─┬─▶ "), Span(base), Span(" (frozen) ", Tone.DIM)]
    # Every row is filled up to `room` cells, so that all of them meet in one vertical line.
    room = max(width_of(spans) for spans in (*rows, top)) + 2
    # An empty list tells `drawing` to use the form for narrow panes.
    if room + len("─▶ + ─▶ y") > width:
        return []
    lines = [line(*top, "─" * (room - width_of(top)) + "▶ + ─▶ y")]
    for number, spans in enumerate(rows):
        last = number == len(rows) - 1
        lines.append(line(*spans, "─" * (room - width_of(spans)) + ("──┘" if last else "──┤")))
    return [*lines, *_notes(branches)]


def _stacked(base: str, branches: Sequence[Branch]) -> list[Line]:
    lines = [line("x ─┬─▶ ", base, Span(" (frozen)", Tone.DIM), " ─▶ + ─▶ y")]
    for number, each in enumerate(branches):
        last = number == len(branches) - 1
        part = f" ─▶ {each.part}" if each.part else ""
        lines += [
            line("   └─▶ " if last else "   ├─▶ ", Span("A ", Tone.TITLE), Span(each.a, Tone.GOOD)),
            line(
                "    ─▶ " if last else "   │ ─▶ ",
                Span("B ", Tone.TITLE),
                Span(each.b, Tone.GOOD),
                f" ─▶ × {each.scale}{part} ─▶ +",
            ),
        ]
    return [*lines, *_notes(branches)]


def _notes(branches: Sequence[Branch]) -> list[Line]:
    # Parts of one fused linear share the same experts: their note is written once.
    notes = dict.fromkeys(each.note for each in branches if each.note)
    return [line(Span(f"       {note}", Tone.DIM)) for note in notes]
