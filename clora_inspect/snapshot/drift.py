"""`Drift`: what a plan has that its snapshot has not, and the other way round, as frozen data.
Pure.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Change(StrEnum):
    """What happened to a placement since the snapshot."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"

    @property
    def mark(self) -> str:
        """Character at the beginning of a printed change."""
        return {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~"}[self]


class DriftLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Placements that changed in the same way, folded over their layers."""

    change: Change
    where: str
    """`decoder.layers.{0..31}.mlp.linear_fc1[gate]` as it is now; if removed, as it was."""
    was: str | None = None
    """The old place of what was only renamed."""
    count: int
    """Placements of the whole model."""
    before: str | None = None
    """`rank 16, in 4096, out 1024, A rank/tp, B out/tp`; None for what is new."""
    after: str | None = None
    """The same, now; None for what is gone."""
    params: int
    """Change of the number of parameters, the whole model."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One layout of one job against its snapshot. Counts are adapters of the whole model."""

    kept: int
    added: int
    removed: int
    changed: int
    params_before: int
    params_after: int
    lines: tuple[DriftLine, ...] = ()
    settings: tuple[str, ...] = ()
    """LoRA settings that no placement shows: `dropout 0.0 -> 0.1`."""
    base: tuple[str, ...] = ()
    """What changed in the base model, one sentence each; empty when it is the same."""
    layout: tuple[str, ...] = ()
    """What changed in the layout: `tp 4 -> 8`."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing changed at all."""
        return not (self.added or self.removed or self.changed or self.settings or self.base or self.layout)
