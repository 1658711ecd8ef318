"""`Display`: how much a run prints, and how it looks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Display:
    """The display options of one run."""

    # It is mutable on purpose: click fills it while it reads the options, so that an error in a
    # later option is already printed as the earlier ones ask.
    quiet: bool = False
    verbose: bool = False
    traceback: bool = False
    color: str = "auto"
    """`auto`, `always` or `never`."""
    ascii: bool = False
