"""Show the peak memory of ranks: one line for a plan, and the account of each stage as a table."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.quantities import size
from clora_inspect.formats.table import Column, Line, table
from clora_inspect.job.rank_memory import RankMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.formats.glyphs import Glyphs
    from clora_inspect.job.plan import JobPlan, RankClass
    from clora_inspect.job.workload import Workload

_COLUMNS = (
    Column("part"),
    Column("what"),
    Column("size", right=True),
    Column("share", right=True, spare=1),
    Column("how", spare=2),
    Column("from", spare=3),
)


def peak_line(plan: JobPlan, glyphs: Glyphs) -> str | None:
    """Return the peak of the fullest rank and of the emptiest; None where none was counted."""
    found = _counted(plan)
    if not found or not plan.workload:
        return None
    ranks, memory = max(found, key=lambda each: each[1].peak_bytes)
    words = [f"{size(memory.peak_bytes)} at the most, on each rank of stage {ranks.pp}"]
    least = min(each.peak_bytes for _, each in found)
    if least < memory.peak_bytes:
        words.append(f"{size(least)} at the least")
    words.append(f"for {workload_words(plan.workload)}")
    return f" {glyphs.dot} ".join(words)


def memory_lines(plan: JobPlan, look: Look) -> Iterator[str]:
    """Yield the account of each stage. Neighbours with equal accounts share one."""
    runs = groupby(_counted(plan), key=lambda each: each[1])
    lines: list[Line] = []
    for memory, run in runs:
        stages = [ranks.pp for ranks, _ in run]
        which = f"stage {stages[0]}" if len(stages) == 1 else f"stages {stages[0]} to {stages[-1]}, each"
        lines.append(Line((f"{which}: {size(memory.peak_bytes)} a rank",), Style.BOLD))
        for line in memory.lines:
            if line.bytes:
                share = f"{100 * line.bytes / memory.peak_bytes:.1f} %"
                how = "counted" if line.counted else "assumed"
                lines.append(Line((line.part, line.what, size(line.bytes), share, how, line.source)))
    yield from table(_COLUMNS, lines, look)


def _counted(plan: JobPlan) -> list[tuple[RankClass, RankMemory]]:
    return [(ranks, ranks.memory) for ranks in plan.rank_classes if isinstance(ranks.memory, RankMemory)]


def workload_words(workload: Workload) -> str:
    """Describe a workload: `micro-batches of 1 x 4,096 tokens`."""
    words = f"micro-batches of {workload.micro_batch_size} x {workload.seq_length:,} tokens"
    if workload.packed is not None:
        words += f", {workload.packed} sequences packed in each row"
    if workload.num_microbatches is not None:
        words += f", {workload.num_microbatches} a step"
    if workload.recompute is not None:
        words += f", recompute {workload.recompute}"
    return words + (f", fullest expert {workload.imbalance:g} times the mean" if workload.imbalance > 1 else "")
