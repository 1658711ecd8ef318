"""The colours of the drawings: one for each status of a node."""

from __future__ import annotations

from dataclasses import dataclass

from clora.plan import Fate


@dataclass(frozen=True, slots=True)
class Colour:
    """The colours of a node, as `#rrggbb`."""

    fill: str
    stroke: str


COLOURS = {
    Fate.WRAPPED.word: Colour("#cfe8cf", "#2e7d32"),
    Fate.EXCLUDED.word: Colour("#f3d9b1", "#b26a00"),
    Fate.UNMATCHED.word: Colour("#eeeeee", "#777777"),
    Fate.NOT_ADAPTABLE.word: Colour("#ffffff", "#bbbbbb"),
}
"""The status of a node -> its colours."""

PLAIN = Colour("#ffffff", "#777777")
"""The colours of a node without a status: a rank class."""
