"""The differences between releases that are known, with their reasons: `differences.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upstream_rows import Row

FILE = Path(__file__).with_name("differences.toml")

EVERY_RELEASE = "all"


@dataclass(frozen=True, slots=True)
class Listed:
    """A reason, and the differences that it explains in some rows of some releases."""

    rows: tuple[str, ...]
    releases: tuple[str, ...]
    """Series, such as `0.17`, or `all`."""
    changes: tuple[str, ...]
    """Sentences of a row; `*` stands for anything. Each has to occur."""
    reason: str

    def is_about(self, row: str, series: str) -> bool:
        return row in self.rows and (series in self.releases or EVERY_RELEASE in self.releases)


@dataclass(frozen=True, slots=True)
class Judged:
    """A row, held against the list."""

    row: Row
    reasons: tuple[str, ...]
    """Why it differs, for differences that are listed."""
    unlisted: tuple[str, ...]
    """Differences that nobody has listed."""
    gone: tuple[str, ...]
    """Listed changes that no longer occur."""

    @property
    def is_good(self) -> bool:
        return not self.unlisted and not self.gone


def read_list(text: str) -> list[Listed]:
    """Read the TOML file.

    Raises:
        TypeError: an entry lacks a key, or has an unknown one.
    """
    return [
        Listed(**{key: value if key == "reason" else tuple(value) for key, value in entry.items()})
        for entry in tomllib.loads(text)["difference"]
    ]


def judge(row: Row, series: str, listed: Sequence[Listed]) -> Judged:
    """Find out which differences of `row` are listed for the series, and which are gone."""
    known = [entry for entry in listed if entry.is_about(row.name, series)]
    changes = [change for entry in known for change in entry.changes]
    return Judged(
        row=row,
        reasons=tuple(entry.reason for entry in known),
        unlisted=tuple(sentence for sentence in row.differences if not any(stands_for(c, sentence) for c in changes)),
        gone=tuple(change for change in changes if not any(stands_for(change, one) for one in row.differences)),
    )


def stands_for(pattern: str, text: str) -> bool:
    """Return whether `text` is `pattern`, in which `*` stands for anything."""
    # Not fnmatch: paths have brackets, which are classes of characters there.
    expression = ".*".join(map(re.escape, pattern.split("*")))
    return re.fullmatch(expression, text, re.DOTALL) is not None
