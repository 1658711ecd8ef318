"""One line for each finding, as compilers write them, for editors and `grep`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.findings.base.groups import groups
from clora_inspect.formats.look import Look

if TYPE_CHECKING:
    from clora_inspect.check.report import CheckReport


def render(report: CheckReport, look: Look | None = None) -> str:
    """Return lines such as `pyproject.toml:8:12: error CL101 unmatched-target: ... [a train]`.

    The severity stands where gcc writes it, so that editors read it.
    """
    look = look or Look()
    lines = []
    for group in groups(report.findings, by_place=True):
        found_in = f" [{', '.join(group.found_in)}]" if group.found_in else ""
        finding = group.finding
        # A dash keeps the fields in place where a finding points at no file.
        said = f"{finding.severity} {finding.code} {finding.name}: {finding.message}{found_in}"
        lines.append(look.paint(f"{group.place or '-'}: {said}"))
    return "".join(f"{line}\n" for line in lines)
