"""`Drift`: what changed from a snapshot to a plan, or from one plan to another. Pure data."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Change(StrEnum):
    """The kind of a change. The values stand in JSON."""

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
    """The old path, when the modules were renamed."""
    count: int
    """Number of adapters in the whole model."""
    before: str | None = None
    """The adapter as it was, `rank 16, in 4096, out 1024, A rank/tp, B out/tp`; None if added."""
    after: str | None = None
    """The adapter as it is now; None if removed."""
    params: int
    """By how much the number of adapter parameters of the whole model changed."""
    why: str | None = None
    """Why, for changes from clora's adapters to Megatron-Bridge's; else None."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """The changes of a job on one layout. Numbers are adapters of the whole model."""

    kept: int
    added: int
    removed: int
    changed: int
    params_before: int
    params_after: int
    lines: tuple[DriftLine, ...] = ()
    settings: tuple[str, ...] = ()
    """Changed LoRA settings, such as `dropout 0.0 -> 0.1`."""
    base: tuple[str, ...] = ()
    """One sentence for each change of the base model."""
    layout: tuple[str, ...] = ()
    """Changes of the layout, such as `tp 4 -> 8`."""

    @property
    def is_clean(self) -> bool:
        """True if nothing changed at all."""
        return not (self.added or self.removed or self.changed or self.settings or self.base or self.layout)
