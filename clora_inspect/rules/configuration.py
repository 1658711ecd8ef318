"""CL9, configuration: entries of the allow-list that allow nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Severity
from clora_inspect.rules.base import Needs, Rule

if TYPE_CHECKING:
    import datetime as dt

    from clora_inspect.config.settings import AllowEntry
    from clora_inspect.job.finding import Finding, Location


class ConfigurationRule(Rule):
    """What the rules of this family have in common: they look at the configuration, not at a plan."""

    needs = Needs.CONFIG
    severity = Severity.WARNING


class UnusedAllow(ConfigurationRule):
    """An entry of the allow-list covers no finding: what it allowed is mended, or the entry has a
    slip of the pen.

    Reported when all jobs are checked and the rule that the entry names was run.

    Bad: an entry with `where = "decoder.layers.{0..3}.*"` after those layers are fully adapted.
    Good: the entry is removed.
    """

    code = "CL901"
    name = "unused-allow"


class ExpiredAllow(ConfigurationRule):
    """The last day of an entry of the allow-list is over: it allows nothing any more, and its
    findings are back.

    Bad: `until = 2020-01-01`.
    Good: what it allowed is mended and the entry removed, or somebody decides anew and writes
    another day.
    """

    code = "CL902"
    name = "expired-allow"


class AllowWithoutReason(ConfigurationRule):
    """An entry of the allow-list does not say why. It allows nothing until it does: a reason is
    what a reader needs later.

    Bad: `rule = "CL104"` alone.
    Good: `reason = "first four layers: q and v only, see design note 12"`.
    """

    code = "CL903"
    name = "allow-without-reason"
    severity = Severity.ERROR


def unused(entry: AllowEntry, location: Location | None) -> Finding:
    """`entry` covers no finding."""
    return UnusedAllow.found(f"the entry for {_described(entry)} covers no finding", fix="remove it", location=location)


def expired(entry: AllowEntry, location: Location | None) -> Finding:
    """The last day of `entry` is over."""
    day: dt.date | None = entry.until
    return ExpiredAllow.found(
        f"the entry for {_described(entry)} counted until {day}",
        fix="mend what it allowed and remove it, or write another day",
        location=location,
    )


def without_reason(entry: AllowEntry, location: Location | None) -> Finding:
    """`entry` does not say why."""
    return AllowWithoutReason.found(
        f"the entry for {_described(entry)} has no reason and allows nothing",
        fix='write reason = "..."',
        location=location,
    )


def _described(entry: AllowEntry) -> str:
    where = next((f" at {place}" for place in (entry.where, entry.target, entry.job) if place), "")
    return f"{entry.rule}{where}"
