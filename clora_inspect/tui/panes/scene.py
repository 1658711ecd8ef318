"""`Scene`: everything that a pane may speak of, at one moment. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.job.finding import Finding, Location
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.tui.tree.rows import TreeModel


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A plan, the rank it is looked at from, and what else is known of it."""

    name: str
    """The job, as the user calls it."""
    layout_name: str
    plan: JobPlan
    tree: TreeModel
    rank: int | None = None
    """A global rank; None for the whole cluster."""
    findings: tuple[Finding, ...] = ()
    drift: Drift | None = None
    snapshot_note: str = ""
    """Why there is no drift: no snapshot, or none that can be read."""
    location_of: Callable[[str], Location | None] = lambda _: None
    """Where a key of the job is written: `lora.target_modules[4]` -> the line of the configuration."""
    file_lines: Callable[[str, int, int], list[str]] = lambda *_: []
    """Lines `first` to `last` of a file of the configuration, for the Source pane."""
