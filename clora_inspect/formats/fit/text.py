"""The layouts in which a job fits, as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.quantities import count, size
from clora_inspect.formats.table import Column, Line, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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


def render(name: str, found: Fit, look: Look) -> str:
    """Return the report."""
    lines = [*_head(name, found, look), ""]
    if found.fitting:
        lines += table(_COLUMNS, [Line(_cells(each, found)) for each in found.fitting], look)
        if found.not_looked_at:
            more = 2 * len(found.fitting)
            lines.append(look.paint(f"  more, which take longer or do not fit: --rows {more} or -f json", Style.DIM))
        lines.append("")
    lines += [line for text in (*_nothing(found), *_own(found)) for line in look.wrapped(text)]
    lines += [line for text in _assumed(found) for line in look.wrapped(text, style=Style.DIM)]
    return "\n".join(lines) + "\n"


def _head(name: str, found: Fit, look: Look) -> Iterator[str]:
    fitting, limit = len(found.fitting), found.question.limit_bytes / GIB
    which = f"the {count(fitting)} cheapest that fit" if found.not_looked_at else f"{count(fitting)} fit"
    gpus = found.question.batch.gpus
    of = f"{name} on {count(gpus)} GPU{'s' if gpus > 1 else ''} of {limit:g} GiB"
    yield look.paint(f"{of}: {which}, of {count(found.candidates)} layouts", Style.BOLD)
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


def _nothing(found: Fit) -> Iterator[str]:
    """Say by how much nothing fits, and what helps; nothing where something fits."""
    limit, smallest = found.question.limit_bytes, found.smallest
    if found.fitting or smallest is None:
        return
    missing, enough = smallest.peak_bytes - limit, -(-smallest.peak_bytes * 10 // GIB) / 10
    yield (
        f"Nothing fits. What needs least needs {size(smallest.peak_bytes)}, {size(missing)} more than a GPU has: "
        f"{_options(smallest.candidate.settings())}"
    )
    on_more = ""
    if found.on_more is not None:
        candidate = found.on_more.candidate
        on_more = f", or --gpus {candidate.layout.world}: {_options(candidate.settings())}"
    yield f"It fits with --gpu-memory-gib {enough:g}{on_more}"


def _own(found: Fit) -> Iterator[str]:
    """Say whether the job's own layout fits, and what to change."""
    if found.own_fault is not None:
        yield f"The job's own layout cannot run on --gpus {found.question.batch.gpus}: {found.own_fault}."
    if found.own is None:
        return
    candidate = found.own.candidate
    settings = [candidate.layout.label]
    if candidate.rows > 1:
        settings.append(f"micro-batches of {candidate.rows}")
    if candidate.recompute != "none":
        settings.append(f"recompute {candidate.recompute}")
    needs = f"The job's own layout, {', '.join(settings)}, needs {size(found.own.peak_bytes)}"
    if found.own.peak_bytes <= found.question.limit_bytes:
        yield f"{needs} and fits."
    elif found.smallest_change is not None:
        changes = found.smallest_change.candidate.changes(candidate)
        yield (
            f"{needs} and does not fit. Smallest change: {_options(changes)} ({size(found.smallest_change.peak_bytes)})"
        )
    else:
        yield f"{needs} and does not fit."


def _options(settings: Mapping[str, str]) -> str:
    return " ".join(" ".join(item) for item in settings.items())


def _assumed(found: Fit) -> Iterator[str]:
    machine, batch = found.question.machine, found.question.batch
    rows = f"{count(batch.rows)} row{'' if batch.rows == 1 else 's'}"
    yield (
        f"{rows} of {count(batch.seq_length)} tokens a step. Time is relative to the first row and only orders them: "
        f"{machine.flops_per_s / 1e12:g} TFLOP/s, {machine.bytes_in_node / 1e9:g} GB/s within a node "
        f"of {machine.gpus_per_node} GPUs, {machine.bytes_between_nodes / 1e9:g} GB/s between nodes, nothing overlaps."
    )
