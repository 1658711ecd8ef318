"""`--add-allow REASON`: write an entry of the allow-list for every finding that fails.

So an existing project can use the check today and fix old findings later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora_inspect.config.document import text_of
from clora_inspect.config.errors import ConfigError
from clora_inspect.machine.atomic_file import write_atomically

if TYPE_CHECKING:
    from clora_inspect.check.report import CheckReport
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.finding import Finding

WITHOUT_ENTRY = ("CL7", "CL9")
"""Families of rules whose findings get no entry. Drift ends when its snapshot is accepted, and a
mistake in the allow-list when it is corrected.
"""


def add_allow(configuration: Configuration, report: CheckReport, reason: str) -> int:
    """Add entries to the configuration file for all findings that fail, and return their number.

    Raises:
        ConfigError: there is no configuration file, or `reason` is empty.
    """
    path = configuration.document.path
    if path is None:
        raise ConfigError(
            "there is no configuration file to write the allow-list to. Write one with: clora-inspect config init"
        )
    if not reason.strip():
        raise ConfigError("--add-allow needs a reason: it is what a reader of the allow-list needs later.")
    entries = _entries(report)
    if not entries:
        return 0
    # Imported here because only this option writes TOML. tomlkit keeps the comments of the file.
    import tomlkit

    document = tomlkit.parse(text_of(path))
    table: Any = document
    # In a pyproject.toml the tool has a table of its own.
    for name in configuration.document.prefix:
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
        for key, value in {**entry, "reason": reason}.items():
            made.add(key, value)
        allow.append(made)
    write_atomically(path, tomlkit.dumps(document).encode())
    return len(entries)


def _entries(report: CheckReport) -> list[dict[str, str]]:
    """Build the entries, without their reason.

    A finding that all checked layouts of a job have gets one entry without a layout.
    """
    layouts = {job.job: {row.layout for row in report.jobs if row.job == job.job} for job in report.jobs}
    found: dict[tuple[str, ...], list[Finding]] = {}
    for finding in report.failing:
        if not finding.code.startswith(WITHOUT_ENTRY):
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
