"""The rows of a run: what is tried on a source tree, and what was found. A row has a name, such as
`plan llama3-8b`, one line about how it went, and a sentence for everything that is not as with the
release of the snapshots. Which of these sentences are expected is `listed_differences.py`'s.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from bridge_tests import FILES, QUESTIONS, question_of
from source_tree import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from subprocess import CompletedProcess

    from source_tree import SourceTree

JOBS = sorted(path.name for path in (REPOSITORY / "snapshots").iterdir() if path.is_dir())

VERIFIED = (
    "llama3-8b",
    "qwen3-30b-a3b",
    "deepseek-v2-lite",
    "nemotron-h-8b",
    "qwen3-next-80b-a3b",
    "gpt-oss-20b",
)
"""One of each kind of layer: dense, experts, latent attention, Mamba, gated delta net, sinks."""

ON_TWO_RANKS = {
    "llama3-8b": ("--tp", "2", "--pp", "1"),
    "qwen3-30b-a3b": ("--tp", "1", "--pp", "1", "--ep", "2", "--etp", "1"),
}

BRIDGE_JOB = "llama3-8b"

LIBRARY = "tests clora"
"""Name of the row of the library's tests."""

DRIFT_CODES = ("CL701", "CL702", "CL703", "CL704", "CL705")
"""Findings that say in other words what stands in the drift itself."""

NEVER_RUN = ("dropout", "layout")
"""Proofs that no row can run: the configured LoRAs have no dropout, and one rank has no layout."""

BRIDGE_PARTS = ("bridge", "jobs")
"""Parts that run with a Megatron-Bridge only."""

PARTS = ("version", "plan", "tests", "verify", "procs", *BRIDGE_PARTS)
"""First words of the rows' names, in the order in which they run: the fastest first."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was found in one thing that was tried."""

    name: str
    summary: str
    """How it went, in a few words: `12 proved`."""
    differences: tuple[str, ...] = ()
    """A sentence for each thing that is not as it was with the release of the snapshots."""


def names() -> list[str]:
    """Return the names of all rows that a run can have."""
    return [
        "version",
        *(f"plan {job}" for job in JOBS),
        LIBRARY,
        *(f"verify {job}" for job in VERIFIED),
        *(f"procs {job}" for job in ON_TWO_RANKS),
        f"bridge {BRIDGE_JOB}",
        *(f"jobs {asked}" for asked in QUESTIONS),
    ]


def rows(tree: SourceTree, parts: tuple[str, ...] = PARTS) -> Iterator[Row]:
    """Run `parts` with `tree`, and yield each row when it is done."""
    if "version" in parts:
        yield version_row(tree)
    if "plan" in parts:
        yield from plan_rows(tree)
    if "tests" in parts:
        yield library_row(tree)
    if "verify" in parts:
        for job in VERIFIED:
            yield verify_row(f"verify {job}", tree, job)
    if "procs" in parts:
        for job, layout in ON_TWO_RANKS.items():
            yield verify_row(f"procs {job}", tree, job, *layout, "--procs", "2")
    if "bridge" in parts and tree.bridge:
        yield verify_row(f"bridge {BRIDGE_JOB}", tree, BRIDGE_JOB, "--implementation", "megatron-bridge")
    if "jobs" in parts and tree.bridge:
        yield from job_rows(tree)


def version_row(tree: SourceTree) -> Row:
    """Ask the tool which release it sees: otherwise everything below speaks of another one."""
    done = tree.run("clora_inspect", "info", "-f", "json")
    seen = json.loads(done.stdout)["versions"]["megatron-core"] if done.returncode == 0 else _ending(done)
    differences = () if seen.startswith(tree.version) else (f"the tool sees megatron-core {seen}, not {tree.version}",)
    return Row("version", seen, differences)


def plan_rows(tree: SourceTree) -> list[Row]:
    """Plan all configured jobs, and compare the plans with the committed snapshots."""
    # Without the cache: plans of another release must not pass for this one's.
    done = tree.run("clora_inspect", "check", "--no-cache", "--no-progress", "-f", "json")
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        return [Row(f"plan {job}", "not planned", (_ending(done),)) for job in JOBS]
    return [plan_row(job, report) for job in JOBS]


def plan_row(job: str, report: dict[str, Any]) -> Row:
    """Return the row of `job` in the JSON of a check."""
    plans = [plan for plan in report["jobs"] if plan["job"] == job]
    errors = [
        f"{finding['code']}: {finding['message']}"
        for finding in report["findings"]
        if finding["job"] == job and finding["severity"] == "error" and finding["code"] not in DRIFT_CODES
    ]
    drifts = [sentence for plan in plans for sentence in _drift_sentences(plan["drift"])]
    planned = [] if plans else ["not planned"]
    adapters = max((plan["placements"] for plan in plans), default=0)
    # Two layouts of one job differ in the same way.
    return Row(f"plan {job}", f"{adapters:,} adapters", tuple(dict.fromkeys([*planned, *errors, *drifts])))


def _drift_sentences(drift: dict[str, Any] | None) -> Iterator[str]:
    if drift is None:
        yield "no snapshot"
        return
    for line in drift["lines"]:
        if was := line.get("was"):
            yield f"renamed: {was} to {line['where']}"
        if not was or line["before"] != line["after"]:
            states = [line[name] for name in ("before", "after") if line.get(name)]
            yield f"{line['change']}: {line['where']}: {' -> '.join(states)}"
    yield from (*drift["base"], *drift["settings"], *drift["layout"])


def library_row(tree: SourceTree, *words: str) -> Row:
    """Run the library's tests, with further words for pytest."""
    report = _junit(tree, "tests/clora", *words)
    return library_row_of(report) if report.startswith("<") else Row(LIBRARY, "not run", (report,))


def library_row_of(report: str) -> Row:
    """Return the row of the tests in a JUnit report."""
    return _tests_row(LIBRARY, list(ET.fromstring(report).iter("testcase")))


def job_rows(tree: SourceTree) -> list[Row]:
    """Run the tests of jobs that use `clora.bridge`, those of `make nightly` included."""
    report = _junit(tree, *FILES, "-m", "nightly or not nightly")
    if not report.startswith("<"):
        return [Row(f"jobs {asked}", "not run", (report,)) for asked in QUESTIONS]
    return job_rows_of(report)


def job_rows_of(report: str) -> list[Row]:
    """Return a row for each question that the tests in a JUnit report answer."""
    cases: dict[str, list[ET.Element]] = {asked: [] for asked in QUESTIONS}
    for case in ET.fromstring(report).iter("testcase"):
        name = case.get("name", "")
        # A file that cannot be imported is a case too, and leaves all questions without an answer.
        if asked := question_of(name):
            cases[asked].append(case)
        elif name.startswith("test_"):
            raise LookupError(f"{name} answers no question: add it to tests/upstream/bridge_tests.py")
    return [_tests_row(f"jobs {asked}", answers) for asked, answers in cases.items()]


def _junit(tree: SourceTree, *words: str) -> str:
    """Run pytest and return its JUnit report; else how it ended."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # Hypothesis' profile for CI draws the same cases each time, and waits for a busy machine.
        fixed = ("-q", "-p", "no:cacheprovider", "--hypothesis-profile=ci", f"--junitxml={report}")
        # A folder of its own: runs that start meanwhile delete the oldest of pytest's usual ones.
        done = tree.run("pytest", f"--basetemp={folder}/tests", *fixed, *words)
        return report.read_text() if report.is_file() else _ending(done)


def _tests_row(name: str, cases: Iterable[ET.Element]) -> Row:
    outcomes = Counter({"passed": 0})
    bad = []
    for case in cases:
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        outcomes[outcome] += 1
        if outcome in ("failure", "error"):
            bad.append(f"{case.get('classname')}.{case.get('name')}: {outcome}")
    if not outcomes.total():
        bad.append("no test was run")
    summary = ", ".join(f"{number} {_word(outcome, number)}" for outcome, number in outcomes.items())
    return Row(name, summary, tuple(bad))


def _word(outcome: str, number: int) -> str:
    return f"{outcome}s" if outcome in ("failure", "error") and number > 1 else outcome


def verify_row(name: str, tree: SourceTree, *words: str) -> Row:
    """Prove the surgery of a small model of a job."""
    done = tree.run("clora_inspect", "verify", *words, "--no-progress", "--timeout", "900", "-f", "json")
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        return Row(name, "not run", (_ending(done),))
    return verify_row_of(name, report)


def verify_row_of(name: str, report: dict[str, Any]) -> Row:
    """Return the row of the JSON of `verify`."""
    proved = sum(proof["status"] == "passed" for proof in report["proofs"])
    others = tuple(
        f"{proof['proof']} {proof['status']}: {proof['detail']}"
        for proof in report["proofs"]
        if proof["status"] != "passed" and not (proof["status"] == "skipped" and proof["proof"] in NEVER_RUN)
    )
    return Row(name, f"{proved} proved", others)


def _ending(done: CompletedProcess[str]) -> str:
    """Return how a command ended that gave no report."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["it said nothing"]
    # Before the error, commands say which layout they take.
    said = next((line for line in lines if line.startswith(("error", "internal error"))), lines[-1])
    return f"ended with {done.returncode}: {said}"
