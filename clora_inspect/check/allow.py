"""The allow-list: findings that are known and intended, each with a reason. Entries that allow
nothing are findings themselves. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.errors import TargetError
from clora.patterns import matches
from clora_inspect.rules import all_rules
from clora_inspect.rules.configuration import AllowWithoutReason, ExpiredAllow, UnusedAllow
from clora_inspect.rules.selection import resolved

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from clora_inspect.config.load import Configuration
    from clora_inspect.config.settings import AllowEntry
    from clora_inspect.job.finding import Finding

_RANGE = re.compile(r"\{([0-9.,]+)\}")
_PART = re.compile(r"\[\w+\]$")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Findings after the allow-list was applied to them."""

    uncovered: tuple[Finding, ...]
    """Findings that no entry covers."""
    count: int
    """Number of findings that an entry covers."""
    unused: tuple[int, ...]
    """Indices of the entries in force that cover no finding."""


def divide(findings: Iterable[Finding], entries: Sequence[AllowEntry], today: dt.date) -> Allowed:
    """Separate the findings that `entries` allow on the day `today` from the others."""
    in_force = {number: entry for number, entry in enumerate(entries) if is_in_force(entry, today)}
    used: set[int] = set()
    uncovered = []
    count = 0
    for finding in findings:
        # All entries that cover it count as used. One of two could be removed, but a report of it
        # would have to choose one of them for the user.
        covering = [number for number, entry in in_force.items() if covers(entry, finding)]
        used.update(covering)
        if covering:
            count += 1
        else:
            uncovered.append(finding)
    return Allowed(tuple(uncovered), count, tuple(number for number in in_force if number not in used))


def entry_findings(
    configuration: Configuration, *, unused: Collection[int], running: Collection[str], today: dt.date
) -> Iterator[Finding]:
    """Yield a finding for each entry that allows nothing.

    Args:
        configuration: its allow-list is looked at.
        unused: indices of entries in force that cover no finding.
        running: codes of the rules that were run. An entry for other rules may still be needed.
        today: the day on which the entries are judged.
    """
    for number, entry in enumerate(configuration.settings.allow):
        location = configuration.location(("allow", number, "rule"))
        name = _described(entry)
        if is_expired(entry, today):
            yield ExpiredAllow.found(
                f"the entry for {name} counted until {entry.until}",
                fix="fix what it allowed and remove it, or write another day",
                location=configuration.location(("allow", number, "until")),
            )
        elif not is_in_force(entry, today):
            yield AllowWithoutReason.found(
                f"the entry for {name} has no reason and allows nothing",
                fix='write reason = "..."',
                location=location,
            )
        elif number in unused and not resolved(entry.rule, all_rules()).isdisjoint(running):
            yield UnusedAllow.found(f"the entry for {name} covers no finding", fix="remove it", location=location)


def is_in_force(entry: AllowEntry, today: dt.date) -> bool:
    """Return whether `entry` allows anything: it has a reason and is not expired."""
    return bool(entry.reason and entry.reason.strip()) and not is_expired(entry, today)


def is_expired(entry: AllowEntry, today: dt.date) -> bool:
    """Return whether the last day of `entry` is over."""
    return entry.until is not None and entry.until < today


def covers(entry: AllowEntry, finding: Finding) -> bool:
    """Return whether `entry` covers `finding` as a whole: in all layers that it is about."""
    return (
        (finding.code.startswith(entry.rule.upper()) or finding.name == entry.rule)
        and entry.job in (None, finding.job)
        and entry.layout in (None, finding.layout)
        and entry.target in (None, finding.target)
        and (entry.where is None or _covers_place(entry.where, finding.where))
    )


def _described(entry: AllowEntry) -> str:
    """Name an entry by its rule and the first of place, target and job that it has."""
    where = next((f" at {place}" for place in (entry.where, entry.target, entry.job) if place), "")
    return f"{entry.rule}{where}"


def _covers_place(pattern: str, where: str | None) -> bool:
    if where is None:
        return False
    try:
        return pattern == where or all(_matches_place(pattern, path) for path in _unfolded(where))
    except TargetError:
        # A pattern that cannot be read covers nothing, and the entry is reported as unused.
        return False


def _matches_place(pattern: str, path: str) -> bool:
    # A pattern need not name the canonical part at the end of a path, such as `[gate]`.
    return matches(pattern, path) or matches(pattern, _PART.sub("", path))


def _unfolded(where: str) -> list[str]:
    """Unfold `layers.{0..1,4}.mlp` into the paths of layers 0, 1 and 4.

    `{18 of 0..51}` does not say which layers are meant; it is not unfolded and only an equal
    pattern covers it.
    """
    found = _RANGE.search(where)
    if found is None:
        return [where]
    numbers = [number for run in found[1].split(",") for number in _numbers(run)]
    return [f"{where[: found.start()]}{number}{where[found.end() :]}" for number in numbers]


def _numbers(run: str) -> range:
    """Read `7`, `0..31`, or `3..47..4` (every fourth number)."""
    first, *more = (int(number) for number in run.split(".."))
    return range(first, (more[0] if more else first) + 1, more[1] if len(more) > 1 else 1)
