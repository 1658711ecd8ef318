"""`Span`: how the bytes that are alive change during a stretch of a run. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a run, beside what was alive when it began. One after another they add up."""

    net: int = 0
    """Bytes alive at the end, less those at the beginning."""
    peak: int = 0
    """The most bytes alive at any moment, less those at the beginning; at least 0."""

    def times(self, count: int) -> Span:
        """Return the span of a run of which every tensor is `count` times as large."""
        return Span(self.net * count, self.peak * count)


NOTHING = Span()


def joined(spans: Iterable[Span]) -> Span:
    """Return the span of a run that goes through all of them, one after another."""
    net = peak = 0
    for span in spans:
        peak = max(peak, net + span.peak)
        net += span.net
    return Span(net, peak)
