"""Complete names in the shell, without importing what they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    import click


def complete_job(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete configured jobs and built-in architectures; files where none of them fits."""
    from clora_inspect.sources import architectures

    names = dict.fromkeys([*configured_jobs(), *architectures.names()])
    # With an item of this type the shell completes files itself.
    return [CompletionItem(name) for name in names if name.startswith(incomplete)] or [
        CompletionItem(incomplete, type="file")
    ]


def complete_configured_job(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(name) for name in configured_jobs() if name.startswith(incomplete)]


def complete_layout(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    # click does not pass on which JOB was typed before, so these are the layouts of all jobs.
    names = dict.fromkeys(layout for layouts in configured_jobs().values() for layout in layouts)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_lora(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    # With an item of this type the shell completes files itself.
    return [CompletionItem(name) for name in _tables("lora") if name.startswith(incomplete)] or [
        CompletionItem(incomplete, type="file")
    ]


def complete_rules(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last code of a comma-separated list of rule codes."""
    from clora_inspect.rules import all_rules

    # The shell replaces the whole word, so an item repeats the codes before the last.
    before, comma, last = incomplete.rpartition(",")
    return [
        CompletionItem(f"{before}{comma}{rule.code}", help=rule.name)
        for rule in all_rules()
        if rule.code.startswith(last.upper())
    ]


def configured_jobs() -> dict[str, list[str]]:
    """Return the jobs of the nearest configuration, with the names of their layouts."""
    tables = _tables("jobs").items()
    return {name: _names(table.get("layouts")) for name, table in tables if isinstance(table, dict)}


def _tables(key: str) -> dict[str, object]:
    """Return the table `key` of the nearest configuration, unchecked.

    Completion works with a configuration that has mistakes, and with one that cannot be read it
    completes nothing.
    """
    from clora.errors import CloraError
    from clora_inspect.config.document import discover

    try:
        found = discover(Path.cwd()).tables.get(key, {})
    except (CloraError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(layouts: object) -> list[str]:
    return [str(name) for name in layouts] if isinstance(layouts, dict) else []


def complete_targets(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last target of a comma-separated list of targets."""
    from clora.fused import PARTS_BY_TARGET
    from clora.patterns import MLA_TARGETS

    before, comma, last = incomplete.rpartition(",")
    known = (*PARTS_BY_TARGET, "linear_proj", "linear_fc2", *MLA_TARGETS)
    return [CompletionItem(f"{before}{comma}{name}") for name in known if name.startswith(last)]
