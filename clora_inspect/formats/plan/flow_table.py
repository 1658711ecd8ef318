"""Show what ranks send and compute for a micro-batch: two lines for a plan, and a table of the
messages of each stage.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.quantities import size
from clora_inspect.formats.table import Column, Line, table
from clora_inspect.job.flops import Flops
from clora_inspect.job.traffic import Owner, sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.formats.glyphs import Glyphs
    from clora_inspect.job.plan import JobPlan, RankClass
    from clora_inspect.job.traffic import Traffic

_COLUMNS = (
    Column("axis"),
    Column("collective"),
    Column("phase"),
    Column("of"),
    Column("calls", right=True, spare=2),
    Column("buffers", right=True, spare=1),
    Column("sent", right=True),
)


def traffic_line(plan: JobPlan, glyphs: Glyphs) -> str | None:
    """Return what the rank sends that sends most; None where nothing was counted."""
    counted = [(sent(lines), lines, ranks) for ranks, lines in _counted(plan)]
    if not counted:
        return None
    total, lines, ranks = max(counted, key=lambda each: each[0])
    axes: Counter[str] = Counter()
    for line in lines:
        if not line.phase.is_per_step:
            axes[line.axis] += line.sent_bytes
    words = [f"{size(total)} sent for a micro-batch by each rank of stage {ranks.pp}"]
    if total:
        by_axis = ", ".join(f"{axis} {size(each)}" for axis, each in axes.most_common())
        adapters = sent(lines, owner=Owner.ADAPTER)
        words += [by_axis, f"adapters {size(adapters)} of it ({100 * adapters / total:.1f} %)"]
    if per_step := sent(lines, per_step=True):
        words.append(f"{size(per_step)} once a step")
    return f" {glyphs.dot} ".join(words)


def flops_line(plan: JobPlan, glyphs: Glyphs) -> str | None:
    """Return what the rank computes that computes most; None where nothing was counted."""
    counted = [(ranks.flops, ranks) for ranks in plan.rank_classes if isinstance(ranks.flops, Flops)]
    if not counted or not plan.workload:
        return None
    flops, ranks = max(counted, key=lambda each: each[0].total)
    whole = sum((each for each, _ in counted), Flops())
    adapters = flops.adapter_forward + flops.adapter_backward
    words = [
        f"{flops.total / 1e12:,.2f} TFLOP for a micro-batch on each rank of stage {ranks.pp}",
        f"adapters {adapters / 1e12:,.2f} of it",
        f"{plan.workload.step_tokens(plan.layout):,} tokens a step",
        f"a formula without LoRA counts {whole.overstatement:.2f} times as many",
    ]
    return f" {glyphs.dot} ".join(words)


def traffic_lines(plan: JobPlan, look: Look) -> Iterator[str]:
    """Yield the messages of each stage. Neighbours that send the same share one part."""
    lines: list[Line] = []
    for messages, run in groupby(_counted(plan), key=lambda each: each[1]):
        stages = [ranks.pp for ranks, _ in run]
        which = f"stage {stages[0]}" if len(stages) == 1 else f"stages {stages[0]} to {stages[-1]}, each"
        lines.append(Line((f"{which}: {size(sent(messages))} sent by a rank for a micro-batch",), Style.BOLD))
        lines += [_row(line) for line in messages]
    yield from table(_COLUMNS, lines, look)


def _row(line: Traffic) -> Line:
    phase = f"{line.phase}, once a step" if line.phase.is_per_step else str(line.phase)
    return Line(
        (line.axis, line.collective, phase, str(line.owner), f"{line.calls:,}", size(line.bytes), size(line.sent_bytes))
    )


def _counted(plan: JobPlan) -> list[tuple[RankClass, tuple[Traffic, ...]]]:
    return [(ranks, ranks.traffic) for ranks in plan.rank_classes if isinstance(ranks.traffic, tuple)]
