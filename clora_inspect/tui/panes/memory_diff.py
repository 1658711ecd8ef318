"""The peak memory of two plans, part by part and stage by stage, for the what-if screen."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from clora_inspect.formats.plan.memory_table import workload_words
from clora_inspect.formats.quantities import size
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.tui.panes.lines import BLANK, Line, Span, Tone, line, wrapped
from clora_inspect.tui.panes.rank_account import PARTS, fits, part_bytes

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan

Row = tuple[str, int | None, int]
"""A label, and the bytes before and after; None where there is nothing to compare with."""


def memory_diff_lines(before: JobPlan, after: JobPlan, gpu_memory_gib: float | None, width: int) -> list[Line]:
    """Return the peak of the fullest rank of both plans, its parts, and the peak of each stage.

    Nothing if the memory of one of them was not counted.

    Args:
        before: the job's plan.
        after: the plan with the values of the form.
        gpu_memory_gib: memory of one GPU; None where that is not known.
        width: the widest line, in cells.
    """
    old, new = _peaks(before), _peaks(after)
    if not old or not new or not before.workload or not after.workload:
        return []
    fullest_old, fullest_new = (max(each, key=lambda memory: memory.peak_bytes) for each in (old, new))
    parts_old, parts_new = part_bytes(fullest_old), part_bytes(fullest_new)
    rows: list[Row] = [("peak, fullest rank", fullest_old.peak_bytes, fullest_new.peak_bytes)]
    rows += [(f"  {part}", parts_old[part], parts_new[part]) for part in PARTS if parts_old[part] or parts_new[part]]
    lines = [*_table(rows + _stages(old, new))]
    if gpu_memory_gib is not None:
        fitting = fits(fullest_new.peak_bytes, gpu_memory_gib)
        words = f"{'fits' if fitting else 'does not fit'} into the {gpu_memory_gib:g} GiB of a GPU"
        lines += wrapped(words, width, Tone.GOOD if fitting else Tone.BAD)
    workloads = [workload_words(before.workload), workload_words(after.workload)]
    change = f"{workloads[0]}; what-if: {workloads[1]}" if workloads[0] != workloads[1] else workloads[0]
    return [*lines, *wrapped(f"for {change}", width, Tone.DIM), BLANK]


def _peaks(plan: JobPlan) -> list[RankMemory]:
    return [ranks.memory for ranks in plan.rank_classes if isinstance(ranks.memory, RankMemory)]


def _stages(old: list[RankMemory], new: list[RankMemory]) -> list[Row]:
    """Return a row for each run of stages that are alike, if there are several stages."""
    if len(new) == 1:
        return []
    # Stage 1 of two is no counterpart of stage 1 of four.
    before: list[int | None] = [each.peak_bytes for each in old] if len(old) == len(new) else [None] * len(new)
    pairs = [(one, each.peak_bytes) for one, each in zip(before, new, strict=True)]
    rows: list[Row] = []
    for (one, other), run in groupby(enumerate(pairs), key=lambda each: each[1]):
        numbers = [number for number, _ in run]
        which = f"pp{numbers[0]}" if len(numbers) == 1 else f"pp{numbers[0]}-{numbers[-1]}"
        rows.append((f"peak, {which}", one, other))
    return rows


def _table(rows: list[Row]) -> list[Line]:
    cells = [(label, "" if old is None else size(old), size(new), _change(old, new)) for label, old, new in rows]
    heads = ("", "job now", "what-if", "change")
    widths = [max(len(row[column]) for row in (heads, *cells)) for column in range(4)]
    lines = []
    for number, row in enumerate((heads, *cells)):
        label, old, new, change = (
            text.rjust(size_) if column else text.ljust(size_)
            for column, (text, size_) in enumerate(zip(row, widths, strict=True))
        )
        tone = Tone.PLAIN if row[1] == row[2] else Tone.WARN
        spans = (Span(f"{label}  ", Tone.DIM), Span(f"{old}  "), Span(f"{new}  {change}", tone))
        lines.append(line(*(span._replace(tone=Tone.DIM) for span in spans)) if not number else line(*spans))
    return lines


def _change(old: int | None, new: int) -> str:
    if old is None:
        return ""
    return "same" if old == new else f"{'+' if new > old else ''}{size(new - old)}"
