"""The layouts in which a job fits, as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.quantities import count, size
from clora_inspect.formats.table import Column, Line, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.fit.estimate import Estimate
    from clora_inspect.fit.search import Fit

GIB = 1 << 30

_COLUMNS = (
    *(Column(axis, right=True) for axis in ("tp", "pp", "vpp", "cp", "ep", "etp", "dp")),
    Column("micro-batch", right=True),
    Column("recompute"),
    Column("peak", right=True),
    Column("on stage", right=True, spare=3),
    Column("sent a step", right=True, spare=1),
    Column("bubble", right=True, spare=2),
    Column("time", right=True),
)


def render(name: str, found: Fit, look: Look, rows: int) -> str:
    """Return the report; of the layouts that fit, the first `rows`."""
    lines = [*_head(name, found, look), ""]
    if found.fitting:
        shown = found.fitting[:rows]
        lines += table(_COLUMNS, [Line(_cells(each, found)) for each in shown], look)
        rest = len(found.fitting) - len(shown)
        if rest:
            lines.append(look.paint(f"  and {count(rest)} more: --rows {len(found.fitting)} or -f json", Style.DIM))
        lines.append("")
    lines += [line for text in _asked(found) for line in look.wrapped(text)]
    lines += [line for text in _assumed(found) for line in look.wrapped(text, style=Style.DIM)]
    return "\n".join(lines) + "\n"


def _head(name: str, found: Fit, look: Look) -> Iterator[str]:
    batch, fitting = found.batch, len(found.fitting)
    yield look.paint(
        f"{name} on {count(batch.gpus)} GPUs of {found.limit_bytes / GIB:g} GiB: {count(fitting)} of "
        f"{count(fitting + found.too_large)} layouts fit",
        Style.BOLD,
    )
    left_out = found.refused.reasons
    if left_out:
        reasons = "; ".join(f"{reason} ({count(number)})" for reason, number in left_out.most_common())
        yield from look.wrapped(f"{count(left_out.total())} more cannot be built or run: {reasons}.", "  ")


def _cells(each: Estimate, found: Fit) -> tuple[str, ...]:
    layout = each.candidate.layout
    sizes = {**layout.sizes(), "vpp": layout.vpp, "dp": layout.dp}
    return (
        *(str(sizes[column.title]) for column in _COLUMNS[:7]),
        str(each.candidate.rows),
        each.candidate.recompute,
        size(each.peak_bytes),
        str(each.fullest_stage),
        size(each.sent_bytes),
        f"{100 * each.bubble:.1f} %",
        f"{each.seconds / found.fitting[0].seconds:.2f}",
    )


def _asked(found: Fit) -> Iterator[str]:
    """Say whether the job's own layout fits, and what to change."""
    limit = size(found.limit_bytes)
    if not found.fitting:
        options = " ".join(" ".join(item) for item in found.smallest.candidate.settings().items())
        yield f"Nothing fits. What needs least is {size(found.smallest.peak_bytes)} of {limit}: {options}"
    if found.asked is None:
        return
    needs = f"The job's own layout, {found.asked.candidate.layout.label}, needs {size(found.asked.peak_bytes)}"
    if found.asked.peak_bytes <= found.limit_bytes:
        yield f"{needs} and fits."
    elif found.smallest_change is not None:
        changes = found.smallest_change.candidate.changes(found.asked.candidate)
        options = " ".join(" ".join(item) for item in changes.items())
        yield f"{needs} and does not fit. Smallest change: {options} ({size(found.smallest_change.peak_bytes)})"
    else:
        yield f"{needs} and does not fit."


def _assumed(found: Fit) -> Iterator[str]:
    machine, batch = found.machine, found.batch
    yield (
        f"{count(batch.rows)} rows of {count(batch.seq_length)} tokens a step. Time is relative to the first row and "
        f"only orders them: {machine.flops_per_s / 1e12:g} TFLOP/s, {machine.bytes_in_node / 1e9:g} GB/s within a node "
        f"of {machine.gpus_per_node} GPUs, {machine.bytes_between_nodes / 1e9:g} GB/s between nodes, nothing overlaps."
    )
