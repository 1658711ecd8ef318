"""The account of one rank's peak memory, part by part, for the Ranks pane."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from clora_inspect.formats.plan.memory_table import workload_words
from clora_inspect.formats.quantities import size
from clora_inspect.job.rank_memory import Part
from clora_inspect.job.workload import GIB
from clora_inspect.tui.panes.heat import percent
from clora_inspect.tui.panes.lines import BLANK, Line, Span, Tone, keep_start, labelled, line, wrapped

if TYPE_CHECKING:
    from clora_inspect.job.rank_memory import MemoryLine, RankMemory
    from clora_inspect.job.workload import Workload

PARTS: tuple[Part, ...] = get_args(Part)

SIZE, SHARE = 11, 9
"""Cells of the columns at the right."""

WIDEST = 58
"""Cells of the column at the left, at most: the eye has to find the number in the same line."""


def account_lines(memory: RankMemory, workload: Workload, gpu_memory_gib: float | None, width: int) -> list[Line]:
    """Return the peak, then its parts with the lines of each; the parts add up to the peak."""
    room = min(max(width - SIZE - SHARE, 12), WIDEST)
    lines = [
        *labelled("peak", _peak(memory.peak_bytes, gpu_memory_gib), width, _tone(memory.peak_bytes, gpu_memory_gib)),
        *wrapped(f"for {workload_words(workload)}", width, Tone.DIM, lead=" " * 12),
        BLANK,
    ]
    for part in PARTS:
        lines += _part(part, [each for each in memory.lines if each.part == part], memory, room)
    total = line(Span("= peak".ljust(room), Tone.TITLE), Span(size(memory.peak_bytes).rjust(SIZE), Tone.TITLE))
    return [*lines, total]


def part_bytes(memory: RankMemory) -> dict[Part, int]:
    """Return the bytes of each part."""
    return {
        "weights": memory.weights_bytes,
        "gradients": memory.gradients_bytes,
        "optimizer": memory.optimizer_bytes,
        "activations": memory.activations_bytes,
        "transient": memory.transient_bytes,
        "buffers": memory.buffers_bytes,
        "allowance": memory.allowance_bytes,
    }


def fits(peak: int, gpu_memory_gib: float | None) -> bool:
    """Return whether a peak is within the memory of a GPU; True where that is not known."""
    return gpu_memory_gib is None or peak <= gpu_memory_gib * GIB


def _peak(peak: int, gpu_memory_gib: float | None) -> str:
    if gpu_memory_gib is None:
        return size(peak)
    verdict = "" if fits(peak, gpu_memory_gib) else ": does not fit"
    return f"{size(peak)} of {gpu_memory_gib:g} GiB ({percent(peak, int(gpu_memory_gib * GIB))} %){verdict}"


def _tone(peak: int, gpu_memory_gib: float | None) -> Tone:
    return Tone.PLAIN if fits(peak, gpu_memory_gib) else Tone.BAD


def _part(part: Part, entries: list[MemoryLine], memory: RankMemory, room: int) -> list[Line]:
    total = part_bytes(memory)[part]
    share = f"{100 * total / memory.peak_bytes:.1f} %" if memory.peak_bytes else ""
    lines = [line(Span(part.ljust(room), Tone.TITLE), size(total).rjust(SIZE), share.rjust(SHARE))]
    for each in entries:
        if each.bytes:
            what = keep_start(f"  {each.what}", room).ljust(room)
            how = "counted" if each.counted else "assumed"
            lines.append(line(Span(f"{what}{size(each.bytes).rjust(SIZE)}{how.rjust(SHARE)}", Tone.DIM)))
    return lines
