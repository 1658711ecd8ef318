"""What the shell completes: names, without importing what they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    import click

ARCHITECTURES = Path(__file__).parent.parent / "sources" / "architectures"


def complete_job(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Built-in architectures, then files."""
    names = sorted(path.stem for path in ARCHITECTURES.glob("*.json"))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)] or [
        CompletionItem(incomplete, type="file")
    ]


def complete_targets(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The last of a comma-separated list of targets."""
    from clora.fused import PARTS_BY_TARGET
    from clora.patterns import MLA_TARGETS

    before, comma, last = incomplete.rpartition(",")
    known = (*PARTS_BY_TARGET, "linear_proj", "linear_fc2", *MLA_TARGETS)
    return [CompletionItem(f"{before}{comma}{name}") for name in known if name.startswith(last)]
