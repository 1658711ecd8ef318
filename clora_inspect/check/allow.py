"""The allow-list: findings that are known and meant, each with a reason; entries that allow nothing
are findings themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.errors import TargetError
from clora.patterns import matches

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from clora_inspect.config.settings import AllowEntry
    from clora_inspect.job.finding import Finding

_RANGE = re.compile(r"\{([0-9.,]+)\}")
_PART = re.compile(r"\[\w+\]$")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Findings, divided by the allow-list."""

    left: tuple[Finding, ...]
    """Those that no entry covers."""
    count: int
    """Those that an entry covers."""
    unused: tuple[int, ...]
    """Numbers of the entries in force that cover none."""


def divide(findings: Iterable[Finding], entries: Sequence[AllowEntry], today: dt.date) -> Allowed:
    """Take out of `findings` what `entries` allow on the day `today`. An expired entry, or one
    without a reason, allows nothing.
    """
    in_force = {number: entry for number, entry in enumerate(entries) if counts(entry, today)}
    used: set[int] = set()
    left = []
    count = 0
    for finding in findings:
        covering = [number for number, entry in in_force.items() if covers(entry, finding)]
        used.update(covering)
        if covering:
            count += 1
        else:
            left.append(finding)
    return Allowed(tuple(left), count, tuple(number for number in in_force if number not in used))


def counts(entry: AllowEntry, today: dt.date) -> bool:
    """Whether `entry` is in force."""
    return bool(entry.reason and entry.reason.strip()) and not is_expired(entry, today)


def is_expired(entry: AllowEntry, today: dt.date) -> bool:
    """Whether its last day is over."""
    return entry.until is not None and entry.until < today


def covers(entry: AllowEntry, finding: Finding) -> bool:
    """Whether `entry` is about `finding`: all of it, where the finding is about several layers."""
    return (
        (finding.code.startswith(entry.rule.upper()) or finding.name == entry.rule)
        and entry.job in (None, finding.job)
        and entry.layout in (None, finding.layout)
        and entry.target in (None, finding.target)
        and (entry.where is None or _covers_place(entry.where, finding.where))
    )


def _covers_place(pattern: str, where: str | None) -> bool:
    if where is None:
        return False
    try:
        return pattern == where or all(_matches_place(pattern, path) for path in _unfolded(where))
    except TargetError:
        return False


def _matches_place(pattern: str, path: str) -> bool:
    """`path` may end in a canonical part, which the pattern need not name."""
    return matches(pattern, path) or matches(pattern, _PART.sub("", path))


def _unfolded(where: str) -> list[str]:
    """The single paths of a folded one: `layers.{0..1,4}.mlp` -> layers 0, 1 and 4. What is not
    folded, or too wild, is itself.
    """
    found = _RANGE.search(where)
    if found is None:
        return [where]
    numbers = [number for run in found[1].split(",") for number in _numbers(run)]
    return [f"{where[: found.start()]}{number}{where[found.end() :]}" for number in numbers]


def _numbers(run: str) -> range:
    """`0..31`, `3..47..4`, `7`."""
    first, *more = (int(number) for number in run.split(".."))
    return range(first, (more[0] if more else first) + 1, more[1] if len(more) > 1 else 1)
