"""`View`: the rows and columns of a plan's table that are shown. The sums below the table are
always the whole job's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan


class ShownModules(StrEnum):
    """The modules that the table lists; the values are those of `--only`."""

    ADAPTED = "adapted"
    """Modules that get an adapter."""
    MISSED = "missed"
    """Modules that hold parameters and get no adapter, each with its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    columns: tuple[str, ...] | None = None
    """Names of columns in the order of printing; None for all that fit."""
    expand: bool = False
    """True if each layer has a row of its own instead of one row for all that agree."""
    pattern: str | None = None
    """A target pattern, or a part of a module's path or of a target; None shows all."""
    only: ShownModules | None = None
    """None shows adapted modules."""
    findings_only: bool = False
    """True if only findings are printed."""
    memory: bool = False
    """True to show the account of each stage's memory."""
    beside: JobPlan | None = None
    """The plan of the same job by Megatron-Bridge, whose traffic and peak are shown in one line."""
