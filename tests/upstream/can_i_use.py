"""The page docs/can-i-use.md, and the results that it shows: `results.json`, a row for each release
and each thing that was tried. A run replaces its own rows and keeps all others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bridge_tests import QUESTIONS
from source_tree import REPOSITORY
from upstream_rows import BRIDGE_JOB, JOBS, LIBRARY, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from listed_differences import Judged

RESULTS = Path(__file__).with_name("results.json")
PAGE = REPOSITORY / "docs" / "can-i-use.md"

MOST_NOTES = 5
"""Notes of a row that the page shows; `results.json` has all of them."""

HEAD = """# Can I use it?

What was run with which release of megatron-core and of Megatron-Bridge, without a GPU, and when.
`make upstream` writes this page; do not edit it.

## With megatron-core

- *plans*: every rank of the configured layouts is built, and the adapters and the base model are
  those of `snapshots/`.
- *proved*: `verify` proves the surgery on a small model of the same kinds of layers; *on 2 ranks*:
  `verify --procs 2` does so on two processes.
- *differs*: not as in `snapshots/`, for a reason that stands below and in
  `tests/upstream/differences.toml`.
- *no*: something differs for no known reason; the release is not supported for it.
- *tests/clora*: the library's tests. One is skipped where the release lacks what it is about.
"""

BRIDGE_HEAD = """## With Megatron-Bridge

Jobs that use `clora.bridge`: Megatron-Bridge's own providers, setup, checkpoints and export, on 1,
2 and 4 gloo ranks. Each cell counts tests; one is skipped where the release lacks what it is about.
[bridge.md](bridge.md) says what a release cannot do, which the tests hold as well. The last line is
`verify --implementation megatron-bridge`: Megatron-Bridge's own surgery.
"""


class Result(NamedTuple):
    """A row of one release, as it is kept."""

    release: str
    """What the release is called on the page: `0.17.1`, `main of 2026-08-22`."""
    version: str
    name: str
    summary: str
    good: bool
    notes: list[str]
    """Reasons of the differences; if they are not good, the differences themselves."""
    date: str
    python: str
    command: str
    bridge: str = ""
    """Name of the Megatron-Bridge release that the row ran with; empty for a row without one."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.release, self.bridge, self.name


def result_of(
    judged: Judged, *, release: str, bridge: str, version: str, date: str, python: str, command: str
) -> Result:
    """Return what is kept of a row."""
    bad = [*judged.unlisted, *(f"no longer so: {change}" for change in judged.gone)]
    notes = bad or list(judged.reasons)
    name, summary = judged.row.name, judged.row.summary
    return Result(release, version, name, summary, judged.is_good, notes, date, python, command, bridge)


def read_results(text: str) -> list[Result]:
    return [Result(**entry) for entry in json.loads(text)]


def write_results(results: Iterable[Result]) -> str:
    """Return the results as JSON, one a line."""
    lines = ",\n ".join(json.dumps(result._asdict(), ensure_ascii=False) for result in results)
    return f"[\n {lines}\n]\n"


def merged(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """Return both, in the order of the page; a new row replaces the old one of its name."""
    order = {name: number for number, name in enumerate(names())}
    kept = {result.key: result for result in (*old, *new)}
    # A row that no run has any more is dropped: its job or its proof no longer exists.
    known = [result for result in kept.values() if result.name in order]
    return sorted(known, key=lambda result: (_numbers(result.version), *result.key[:2], order[result.name]))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def page(results: Iterable[Result]) -> str:
    """Return the text of the page."""
    by_release: dict[str, dict[str, Result]] = {}
    by_bridge: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.bridge:
            title = f"Megatron-Bridge {result.bridge}, megatron-core {result.release}"
            by_bridge.setdefault(title, {})[result.name] = result
        else:
            by_release.setdefault(f"megatron-core {result.release}", {})[result.name] = result
    matrices = [HEAD, *_matrix(by_release), "", BRIDGE_HEAD, *_bridge_matrix(by_bridge)]
    return "\n".join([*matrices, "", *_sections({**by_release, **by_bridge})])


def _matrix(by_release: dict[str, dict[str, Result]]) -> Iterator[str]:
    yield _row("", (next(iter(results.values())).release for results in by_release.values()))
    yield "|---" * (len(by_release) + 1) + "|"
    for job in JOBS:
        yield _row(job, (_cell(job, results) for results in by_release.values()))
    yield _row("tests/clora", (_tests_cell(results.get(LIBRARY)) for results in by_release.values()))


def _bridge_matrix(by_bridge: dict[str, dict[str, Result]]) -> Iterator[str]:
    some = [next(iter(results.values())) for results in by_bridge.values()]
    yield _row("Megatron-Bridge", (result.bridge for result in some))
    yield "|---" * (len(by_bridge) + 1) + "|"
    yield _row("with megatron-core", (result.release for result in some))
    for asked in QUESTIONS:
        yield _row(asked, (_tests_cell(results.get(f"jobs {asked}")) for results in by_bridge.values()))
    verified = f"bridge {BRIDGE_JOB}"
    yield _row(f"its own surgery, {BRIDGE_JOB}", (_tests_cell(results.get(verified)) for results in by_bridge.values()))


def _row(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _cell(job: str, results: dict[str, Result]) -> str:
    plan, verify, procs = (results.get(f"{part} {job}") for part in ("plan", "verify", "procs"))
    if not plan:
        return "-"
    if not all(result.good for result in (plan, verify, procs) if result):
        return "**no**"
    words = ["proved" if verify else "plans"]
    words += ["on 2 ranks"] if procs else []
    words += ["differs"] if plan.notes else []
    return ", ".join(words)


def _tests_cell(tests: Result | None) -> str:
    if not tests:
        return "-"
    if not tests.good:
        return f"**no**: {tests.summary}"
    return f"{tests.summary}, for the reason below" if tests.notes else tests.summary


def _sections(titled: dict[str, dict[str, Result]]) -> Iterator[str]:
    for title, results in titled.items():
        some = next(iter(results.values()))
        yield f"## {title}"
        yield ""
        yield f"`megatron.core.__version__` is {some.version}. `{some.command}`"
        yield ""
        yield "| | | differs how | run on |"
        yield "|---|---|---|---|"
        for result in results.values():
            # The table above says that a plan is as in the snapshots.
            if result.notes or not result.name.startswith(("plan ", "version")):
                yield _line(result)
        yield ""


def _line(result: Result) -> str:
    shown = [note.replace("|", "\\|") for note in result.notes[:MOST_NOTES]]
    more = len(result.notes) - len(shown)
    notes = "; ".join([*shown, *([f"and {more} more"] if more else [])])
    mark = "" if result.good else "**no**: "
    return f"| {result.name} | {result.summary} | {mark}{notes} | {result.date}, Python {result.python} |"


if __name__ == "__main__":
    PAGE.write_text(page(read_results(RESULTS.read_text())))
