"""A `Drift` as text for people: the sums, then the changes, folded over layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.quantities import change, count
from clora_inspect.formats.table import Column, Line, table
from clora_inspect.snapshot.drift import Change

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.snapshot.drift import Drift, DriftLine

STYLES = {Change.REMOVED: Style.RED, Change.ADDED: Style.GREEN, Change.CHANGED: Style.YELLOW}
COLUMNS = (
    Column(""),
    Column("placement"),
    Column("adapters", right=True, spare=1),
    Column("was", spare=3),
    Column("is", spare=2),
    Column("params", right=True),
)


def lines(drift: Drift, look: Look, title: str) -> Iterator[str]:
    """Yield the printed lines; the first begins with `title`."""
    yield look.paint(f"{title}: {summary(drift, look)}", Style.BOLD)
    for label, words in (("layout", drift.layout), ("base model", drift.base), ("settings", drift.settings)):
        for word in words:
            # A drift's sentences are also written as JSON and have an ASCII arrow.
            yield look.paint(f"  {label}: {word.replace('->', look.glyphs.arrow)}", Style.YELLOW)
    if drift.lines:
        yield from _changes(drift, look)
    reasons: dict[str, list[str]] = {}
    for line in drift.lines:
        if line.why:
            reasons.setdefault(line.why, []).append(line.where)
    for why, places in reasons.items():
        yield f"  why: {why} ({', '.join(places)})"


def summary(drift: Drift, look: Look) -> str:
    """Return `192 kept, 0 added, 32 removed, 0 changed; 41,943,040 → 32,505,856 params (-22 %)`."""
    if drift.is_clean:
        return f"{count(drift.kept)} kept, nothing changed"
    counts = ", ".join(f"{count(getattr(drift, name))} {name}" for name in ("kept", "added", "removed", "changed"))
    params = change(drift.params_before, drift.params_after, look.glyphs.arrow, " params")
    return f"{counts}; {params}"


def _changes(drift: Drift, look: Look) -> list[str]:
    """Return a table of the changes. Where its columns do not fit, what was and what is stand below
    each other: a table would leave them out, and they are what a reader asks for.
    """
    rows = [Line(_cells(line, look), STYLES[line.change]) for line in drift.lines]
    # Colours take no columns, so the table is measured without them.
    widest = max(map(len, table(COLUMNS, rows, replace(look, color=False, width=None))))
    if look.width is None or widest <= look.width:
        return table(COLUMNS, rows, look)
    found: list[str] = []
    for row in rows:
        mark, place, adapters, was, now, params = row.cells
        noun = "adapter" if adapters == "1" else "adapters"
        facts = f"{place}  {adapters} {noun}" + (f", {params} params" if params else "")
        found += look.wrapped(facts, f"  {mark} ", row.style)
        found += look.wrapped(was, "      was  ", row.style)
        found += look.wrapped(now, "      is   ", row.style)
    return found


def _cells(line: DriftLine, look: Look) -> tuple[str, ...]:
    renamed = f" (was {line.was})" if line.was else ""
    return (
        line.change.mark,
        f"{line.where}{renamed}",
        count(line.count),
        line.before or look.glyphs.dot,
        line.after or look.glyphs.dot,
        f"{line.params:+,}" if line.params else "",
    )
