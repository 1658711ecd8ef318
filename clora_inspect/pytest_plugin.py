"""The pytest plugin: `assert clora_snapshot == plan` in a test, and `--clora-update`. Nothing heavy
is imported at start-up.

    def test_the_adapters(clora_snapshot):
        assert clora_snapshot == plan_job(Job(model="recipes.llama3:build_8b", layout=Layout(tp=4)))

A snapshot is kept beside the test, `__clora__/<test file>/<test>.json`, in the format of
`snapshots/`. One that is missing or different fails the test; `--clora-update` writes it,
`--clora-update=new-only` only where there is none. Each test writes its own file, whole or not at
all, so workers of xdist do not meet.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.snapshot.record import Snapshot

OPTION = "--clora-update"
FOLDER = "__clora__"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--clora-update`."""
    parser.getgroup("clora", "snapshots of adapters").addoption(
        OPTION,
        nargs="?",
        const="all",
        default=None,
        choices=["all", "new-only"],
        help="Write the snapshots that tests compare with; new-only: those that are missing.",
    )


@pytest.fixture
def clora_snapshot(request: pytest.FixtureRequest) -> ClSnapshot:
    """What the plan of this test must equal; `clora_snapshot.named("tp2")` for a second one."""
    return ClSnapshot(request.path, request.node.name, request.config.getoption(OPTION))


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say what changed, folded over layers, instead of printing two plans."""
    snapshot = next((side for side in (left, right) if isinstance(side, ClSnapshot)), None)
    return snapshot.explanation if snapshot is not None and op == "==" else None


class ClSnapshot:
    """The snapshot of one test. Equal to a `JobPlan` whose adapters, base model and layout are as
    they were accepted.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, test_file: Path, name: str, update: str | None) -> None:
        self._test_file = test_file
        self._name = name
        self._update = update
        self.explanation: list[str] = []
        """Why the last comparison failed."""

    @property
    def path(self) -> Path:
        """The file."""
        return (
            self._test_file.parent
            / FOLDER
            / self._test_file.stem
            / f"{re.sub(r'[^A-Za-z0-9._+-]+', '-', self._name).strip('-')}.json"
        )

    def named(self, name: str) -> ClSnapshot:
        """Another snapshot of the same test."""
        return ClSnapshot(self._test_file, f"{self._name}-{name}", self._update)

    def __repr__(self) -> str:
        """The file, as a failing test shows it."""
        return f"the {self._said}"

    @property
    def _said(self) -> str:
        return f"snapshot {FOLDER}/{self._test_file.stem}/{self.path.name}"

    def __eq__(self, other: object) -> bool:
        """Compare with a plan; with `--clora-update` write it first."""
        from clora_inspect.job.plan import JobPlan
        from clora_inspect.snapshot.errors import SnapshotError

        if not isinstance(other, JobPlan):
            return NotImplemented
        try:
            before = self._read()
        except SnapshotError as error:
            if self._update != "all":
                self.explanation = [str(error), self._how()]
                return False
            before = None
        now = self._taken(other)
        if self._update == "all" or (self._update == "new-only" and before is None):
            self._write(now)
            return True
        if before is None:
            self.explanation = [f"there is no {self._said}", self._how()]
            return False
        return self._is_same(before, now)

    def _is_same(self, before: Snapshot, now: Snapshot) -> bool:
        from clora_inspect.snapshot.diff import compare

        drift = compare(before, now)
        self.explanation = [] if drift.is_clean else [f"the plan is not {self!r}", *_lines(drift), self._how()]
        return drift.is_clean

    def _taken(self, plan: JobPlan) -> Snapshot:
        from clora_inspect.snapshot.record import take

        return take(plan, self._name)

    def _read(self) -> Snapshot | None:
        from clora_inspect.snapshot.record import decode

        try:
            return decode(self.path.read_bytes(), repr(self))
        except FileNotFoundError:
            return None

    def _write(self, snapshot: Snapshot) -> None:
        from clora_inspect.machine.atomic_file import write_atomically
        from clora_inspect.snapshot.record import encode

        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, encode(snapshot))

    def _how(self) -> str:
        return f"right as it is now? pytest {OPTION} {self._test_file.name}"


def _lines(drift: Drift) -> list[str]:
    from clora_inspect.formats.look import Look
    from clora_inspect.formats.snapshot.drift_text import lines

    made: Any = lines(drift, Look(), "adapters")
    return [line.rstrip() for line in made]
