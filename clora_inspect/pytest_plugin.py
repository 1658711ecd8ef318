"""The pytest plugin: `assert clora_snapshot == plan` in a test, and the option `--clora-update`.

    def test_the_adapters(clora_snapshot):
        assert clora_snapshot == plan_job(Job(model="recipes.llama3:build_8b", layout=Layout(tp=4)))

The snapshot of a test is kept beside it, in `__clora__/<test file>/<test>.json`, in the format of
`snapshots/`. A missing or different snapshot fails the test. `--clora-update` writes all snapshots
and `--clora-update=new-only` the missing ones. Each test has a file of its own, which is replaced
whole, so that workers of pytest-xdist cannot disturb each other.

pytest loads this module in every project where clora-inspect is installed. That is why everything
of ours is imported when a test first compares.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.snapshot.record import Snapshot

OPTION = "--clora-update"
FOLDER = "__clora__"
HOW = (
    "Write: assert plan_job(Job(model=...)) == clora_snapshot, with plan_job from clora_inspect.pipeline and Job from "
    "clora_inspect.job; a second one in the same test is clora_snapshot.named(NAME)."
)
"""The use of the fixture, for messages."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("clora", "snapshots of adapters")
    # Three options without a value. One with an optional value would take the file of
    # `pytest --clora-update FILE` as its value. argparse looks for a whole word first, so a name
    # may hold the equals sign.
    group.addoption(
        OPTION,
        f"{OPTION}=all",
        dest="clora_update",
        action="store_const",
        const="all",
        default=None,
        help="Write the snapshots that tests compare with.",
    )
    group.addoption(
        f"{OPTION}=new-only",
        dest="clora_update",
        action="store_const",
        const="new-only",
        help="Write only those that are missing.",
    )


@pytest.fixture
def clora_snapshot(request: pytest.FixtureRequest) -> CloraSnapshot:
    """Return what this test's plan must equal; `clora_snapshot.named("tp2")` is another one."""
    return CloraSnapshot(request.path, request.node.name, request.config.getoption("clora_update"))


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a failed comparison by the drift, folded over layers, instead of two whole plans."""
    snapshot = next((side for side in (left, right) if isinstance(side, CloraSnapshot)), None)
    return snapshot.explanation if snapshot is not None and op == "==" else None


class CloraSnapshot:
    """The snapshot of one test. It equals a `JobPlan` that has the accepted adapters, base model
    and layout.
    """

    # Equality depends on the file, so that there is nothing a hash could be made of.
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, test_file: Path, name: str, update: str | None) -> None:
        self._test_file = test_file
        self._name = name
        self._update = update
        self.explanation: list[str] = []
        """Why the last comparison failed, one line each."""

    @property
    def path(self) -> Path:
        # Names of parametrised tests hold characters that files cannot have: test[tp=2/pp=4].
        name = re.sub(r"[^A-Za-z0-9._+-]+", "-", self._name).strip("-")
        return self._test_file.parent / FOLDER / self._test_file.stem / f"{name}.json"

    def named(self, name: str) -> CloraSnapshot:
        """Return another snapshot of the same test."""
        return CloraSnapshot(self._test_file, f"{self._name}-{name}", self._update)

    def __call__(self, *_arguments: object, **_named: object) -> NoReturn:
        """Refuse to be called, as snapshots of other plugins can be.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"clora_snapshot is compared and not called. {HOW}")

    def __repr__(self) -> str:
        return f"the {self._label}"

    @property
    def _label(self) -> str:
        return f"snapshot {FOLDER}/{self._test_file.stem}/{self.path.name}"

    def __eq__(self, other: object) -> bool:
        """Compare with a plan, or with `--clora-update` write the plan as the snapshot.

        Raises:
            TypeError: `other` is no plan of a job.
        """
        from clora_inspect.job.plan import JobPlan
        from clora_inspect.snapshot.errors import SnapshotError

        if not isinstance(other, JobPlan):
            # False would be a failed assertion that `--clora-update` cannot mend.
            what = "a plan of one model" if type(other).__name__ == "Plan" else f"{type(other).__name__}"
            raise TypeError(f"clora_snapshot equals the plan of a job, and this is {what}. {HOW}")
        try:
            before = self._read()
        except SnapshotError as error:
            # A damaged file is replaced by `--clora-update`, but `new-only` keeps what is there.
            if self._update != "all":
                self.explanation = [str(error), self._how_to_accept()]
                return False
            before = None
        now = self._snapshot_of(other)
        if self._update == "all" or (self._update == "new-only" and before is None):
            self._write(now)
            return True
        if before is None:
            self.explanation = [f"there is no {self._label}", self._how_to_accept()]
            return False
        return self._is_same(before, now)

    def _is_same(self, before: Snapshot, now: Snapshot) -> bool:
        from clora_inspect.snapshot.diff import compare

        drift = compare(before, now)
        self.explanation = (
            [] if drift.is_clean else [f"the plan is not {self!r}", *_drift_lines(drift), self._how_to_accept()]
        )
        return drift.is_clean

    def _snapshot_of(self, plan: JobPlan) -> Snapshot:
        from clora_inspect.snapshot.record import take

        return take(plan, self._name)

    def _read(self) -> Snapshot | None:
        from clora.folders.regular_file import read_regular_file
        from clora_inspect.snapshot.errors import SnapshotError
        from clora_inspect.snapshot.record import LARGEST_FILE, decode

        try:
            return decode(read_regular_file(self.path, LARGEST_FILE), repr(self))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnapshotError(f"{self!r} cannot be read: {error.strerror or error}.") from None

    def _write(self, snapshot: Snapshot) -> None:
        from clora_inspect.machine.atomic_file import write_own_file
        from clora_inspect.snapshot.record import encode

        # A worker of pytest-xdist may make the folder at the same moment.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_own_file(self.path, encode(snapshot))

    def _how_to_accept(self) -> str:
        return f"if the plan is right: pytest {OPTION} {self._test_file.name}"


def _drift_lines(drift: Drift) -> list[str]:
    from clora_inspect.formats.look import Look
    from clora_inspect.formats.snapshot.drift_text import lines

    return [line.rstrip() for line in lines(drift, Look(), "adapters")]
