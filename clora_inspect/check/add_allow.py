"""`--add-allow REASON`: write an entry of the allow-list for every finding that fails.

So an existing project can use the check today and fix old findings later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clora_inspect.config.document import text_of
from clora_inspect.config.errors import ConfigError
from clora_inspect.machine.atomic_file import one_writer, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from clora_inspect.check.report import CheckReport
    from clora_inspect.config.key_path import KeyPath
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.finding import Finding

WITHOUT_ENTRY = ("CL7", "CL9")
"""Families of rules whose findings get no entry. Drift ends when its snapshot is accepted, and a
mistake in the allow-list when it is corrected.
"""


@dataclass(frozen=True, slots=True)
class Added:
    """Result of `add_allow`."""

    entries: int
    """Number of entries that were written."""
    refused: tuple[Finding, ...]
    """Findings that fail and that no entry can allow."""


def add_allow(configuration: Configuration, report: CheckReport, reason: str) -> Added:
    """Add entries to the configuration file for the findings that fail, where an entry allows them.

    Raises:
        ConfigError: there is no configuration file, it cannot be written, or `reason` is empty.
    """
    path = configuration.document.path
    if path is None:
        raise ConfigError(
            "there is no configuration file to write the allow-list to. Write one with: clora-inspect config init"
        )
    if not reason.strip():
        raise ConfigError("--add-allow needs a reason: it is what a reader of the allow-list needs later.")
    refused = tuple(finding for finding in report.failing if not _can_be_allowed(finding, report))
    entries = _entries([finding for finding in report.failing if finding not in refused], report)
    if not entries:
        return Added(0, refused)
    try:
        with one_writer(path.parent):
            _add(path, configuration.document.prefix, [{**entry, "reason": reason} for entry in entries])
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from error
    return Added(len(entries), refused)


def _add(path: Path, prefix: KeyPath, entries: list[dict[str, str]]) -> None:
    # Imported here because only this option writes TOML. tomlkit keeps the comments of the file.
    import tomlkit

    # Read again: another process may have added its own since.
    document = tomlkit.parse(text_of(path))
    table: Any = document
    # In a pyproject.toml the tool has a table of its own.
    for name in prefix:
        table = table[str(name)]
    if "allow" not in table:
        # Not `table.append`: tomlkit's proxy for a table that is written in several pieces, with
        # other tables between them, has no such method.
        table["allow"] = tomlkit.aot()
    allow: Any = table["allow"]
    for entry in entries:
        made: Any = tomlkit.table()
        if not isinstance(allow, tomlkit.items.AoT):
            # The user wrote `allow = [{ ... }]`: an inline array cannot hold `[[allow]]` tables.
            made = tomlkit.inline_table()
        else:
            # A blank line before the heading, as people write tables.
            made.trivia.indent = "\n"
        for key, value in entry.items():
            made.add(key, value)
        allow.append(made)
    write_atomically(path, tomlkit.dumps(document).encode())


def _can_be_allowed(finding: Finding, report: CheckReport) -> bool:
    """Return whether an entry can cover `finding`."""
    if finding.code.startswith(WITHOUT_ENTRY):
        return False
    # A job that cannot be planned is always reported, see `check.run`.
    return not any((job.job, job.layout) == (finding.job, finding.layout) for job in report.jobs if not job.planned)


def _entries(failing: Iterable[Finding], report: CheckReport) -> list[dict[str, str]]:
    """Build the entries, without their reason.

    A finding that all checked layouts of a job have gets one entry without a layout.
    """
    layouts = {job.job: {row.layout for row in report.jobs if row.job == job.job} for job in report.jobs}
    found: dict[tuple[str, ...], list[Finding]] = {}
    for finding in failing:
        key = (finding.code, finding.job or "", finding.where or "", finding.target or "")
        found.setdefault(key, []).append(finding)
    entries = []
    for (code, job, where, target), findings in found.items():
        entry = {
            name: value for name, value in (("rule", code), ("job", job), ("where", where), ("target", target)) if value
        }
        having = {finding.layout for finding in findings}
        if having >= layouts.get(job, set()):
            entries.append(entry)
        else:
            entries += [{**entry, "layout": layout} for layout in sorted(filter(None, having))]
    return entries
