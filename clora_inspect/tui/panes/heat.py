"""`Heat`: what the cells of the Ranks pane are shaded by, trainable parameters or peak memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count, size, spread
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.workload import GIB
from clora_inspect.tui.panes.lines import Line, Span, Tone, line, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clora_inspect.tui.panes.scene import Scene

CELLS = ("·", "░", "▒", "▓", "█", "✖")
"""Cells from nothing to the most, and more than there may be."""

TONES = (Tone.DIM, Tone.HEAT_1, Tone.HEAT_2, Tone.HEAT_3, Tone.HEAT_4, Tone.BAD)

TOO_MUCH = len(CELLS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """An amount for each rank class, and how it is shown."""

    by: str
    """The words after `shaded by`."""
    is_memory: bool
    amounts: Sequence[int]
    full: int
    """The amount of the darkest cell."""
    unit: Callable[[int], str]
    """Writes an amount."""
    show: Callable[[int], str]
    """Writes an amount for the row of a stage."""
    words: Callable[[str], str]
    """Returns the legend of a shade, for the amounts that have it."""
    nothing: str
    """The legend of no amount."""

    def shade(self, amount: int) -> int:
        """Return the index in `CELLS`: 0 for nothing, else the quarter of the full amount, 1 to 4;
        `TOO_MUCH` above it.
        """
        if amount <= 0:
            return 0
        # The double minus rounds up: the smallest amount above zero has a shade.
        return TOO_MUCH if amount > self.full else -(-4 * amount // self.full)

    def legend(self, width: int) -> list[Line]:
        """Return a line for each shade that occurs, with the amounts that it stands for."""
        by_shade: dict[int, set[int]] = {}
        for amount in self.amounts:
            by_shade.setdefault(self.shade(amount), set()).add(amount)
        lines: list[Line] = []
        for shade in sorted(by_shade, reverse=True):
            words = self.words(spread(by_shade[shade], self.unit, " to ")) if shade else self.nothing
            if shade == TOO_MUCH:
                words += f": more than the {self.unit(self.full)} of a GPU"
            tone = Tone.PLAIN if 0 < shade < TOO_MUCH else Tone.BAD
            first, *more = wrapped(words, max(width - 2, 8), tone)
            lines += [line(Span(f"{CELLS[shade]} ", TONES[shade]), *first), *(line("  ", *each) for each in more)]
        return lines


def heat_of(scene: Scene) -> Heat:
    """Return peak memory where it was counted, else trainable parameters."""
    peaks = [ranks.memory.peak_bytes for ranks in scene.plan.rank_classes if isinstance(ranks.memory, RankMemory)]
    if peaks and len(peaks) == len(scene.plan.rank_classes):
        return _memory(peaks, scene.gpu_memory_gib)
    amounts = [ranks.trainable_params for ranks in scene.plan.rank_classes]
    return Heat(
        by="trainable parameters",
        is_memory=False,
        amounts=amounts,
        full=max(amounts, default=0),
        unit=count,
        show=count,
        words=lambda amounts: f"{amounts} trainable parameters on one rank",
        nothing="no trainable parameters: these ranks train nothing",
    )


def percent(peak: int, limit: int) -> int:
    """Return the share in whole percent; above the limit it is never 100."""
    return -(-100 * peak // limit) if peak > limit else 100 * peak // limit


def _memory(peaks: Sequence[int], gpu_memory_gib: float | None) -> Heat:
    limit = None if gpu_memory_gib is None else int(gpu_memory_gib * GIB)

    def show(peak: int) -> str:
        return size(peak) if not limit else f"{size(peak)} {percent(peak, limit)} %"

    return Heat(
        is_memory=True,
        by=f"peak memory of {size(limit)} a GPU" if limit else "peak memory, the fullest darkest",
        amounts=peaks,
        full=limit or max(peaks),
        unit=size,
        show=show,
        words=lambda amounts: f"{amounts} at the peak of one rank",
        nothing="no memory",
    )
