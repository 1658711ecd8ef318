"""A census as text for a terminal."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.virtual.census.report import CensusReport, Name


def render(report: CensusReport, path: str) -> str:
    """Return the names of each package, a table of the numbers, and what is missing unguarded."""
    release = f"megatron-core {report.release}" if report.release else "megatron-core of an unknown release"
    lines = [f"{release} in {path}: {report.files:,} files", ""]
    for package, names in groupby(report.names, key=lambda name: name.package):
        lines += [package, *map(_line, names), ""]
    lines += [*_numbers(report), ""]
    lines += [f"cannot be read: {file.file}: {file.reason}" for file in report.unread]
    return "\n".join([*lines, *_verdict(report)]) + "\n"


def _line(name: Name) -> str:
    places = name.unguarded or name.places
    more = f" (+{len(name.places) - 1})" if len(name.places) > 1 else ""
    has = "has" if name.has else "missing"
    return f"  {has:<8}{places[0].guard:<13}{name.name}  {places[0].file}:{places[0].line}{more}"


def _numbers(report: CensusReport) -> Iterator[str]:
    yield f"{'package':<36}{'names':>7}{'missing':>9}{'unguarded':>11}"
    for package, group in groupby(report.names, key=lambda name: name.package):
        names = list(group)
        missing = [name for name in names if not name.has]
        gaps = [name for name in names if name.is_gap]
        yield f"{package:<36}{len(names):>7}{len(missing):>9}{len(gaps):>11}"


def _verdict(report: CensusReport) -> Iterator[str]:
    if report.is_clean:
        yield "All that is asked for without a guard is there."
        return
    for name in report.gaps:
        for place in name.unguarded:
            yield f"{place.file}:{place.line}: {name.name} is asked for without a guard, and missing"
