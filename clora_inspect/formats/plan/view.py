"""Which part of a plan's table is shown, and how finely. The sums below the table are the whole
job's, whatever the view. Pure data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ShownModules(StrEnum):
    """Which modules the table lists."""

    ADAPTED = "adapted"
    """Those that get an adapter."""
    MISSED = "missed"
    """Those that hold parameters and get none, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the user wants to see."""

    columns: tuple[str, ...] | None = None
    """Names of columns, in this order; None for all that fit."""
    expand: bool = False
    """One row per layer instead of one for all layers that agree."""
    pattern: str | None = None
    """A target pattern, or a part of a module's path or of a target."""
    only: ShownModules | None = None
    """None for the adapted ones."""
    findings_only: bool = False
    """Print findings and nothing else."""
