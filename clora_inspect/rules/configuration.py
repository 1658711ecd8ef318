"""CL9, configuration: entries of the allow-list that allow nothing. `check/allow.py` finds them."""

from __future__ import annotations

from clora_inspect.job.finding import Severity
from clora_inspect.rules.base import Needs, Rule


class UnusedAllow(Rule):
    """An entry of the allow-list covers no finding: what it allowed is fixed, or the entry has a
    typo.

    It is reported only when all jobs are checked and a rule that the entry names was run.

    Bad: an entry with `where = "decoder.layers.{0..3}.*"` after those layers are fully adapted.
    Good: the entry is removed.
    """

    code = "CL901"
    name = "unused-allow"
    severity = Severity.WARNING
    needs = Needs.CONFIG


class ExpiredAllow(Rule):
    """The last day of an entry of the allow-list is over. The entry allows nothing any more, and
    its findings are reported again.

    Bad: `until = 2020-01-01`.
    Good: what it allowed is fixed and the entry removed, or someone decides again and writes
    another day.
    """

    code = "CL902"
    name = "expired-allow"
    severity = Severity.WARNING
    needs = Needs.CONFIG


class AllowWithoutReason(Rule):
    """An entry of the allow-list has no reason, which later readers will need. Until it has one it
    allows nothing.

    Bad: `rule = "CL104"` alone.
    Good: `reason = "first four layers: q and v only, see design note 12"`.
    """

    code = "CL903"
    name = "allow-without-reason"
    severity = Severity.ERROR
    needs = Needs.CONFIG
