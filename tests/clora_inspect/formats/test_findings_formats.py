"""A check's report in every format: golden files, and what the readers of each format require."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import msgspec
import pytest

from clora_inspect.check.report import CheckedJob, CheckReport
from clora_inspect.cli.stdio.step_summary import write_step_summary
from clora_inspect.exit_code import ExitCode
from clora_inspect.formats.findings import FORMATS, renderer
from clora_inspect.formats.findings.base import statistics
from clora_inspect.formats.findings.github import MOST
from clora_inspect.formats.glyphs import ASCII
from clora_inspect.formats.look import Look
from clora_inspect.job.finding import Finding, Location, Severity
from clora_inspect.snapshot.drift import Change, Drift, DriftLine
from clora_inspect.verify.report import ProofResult, ProofStatus, VerifyReport

GOLDEN = Path(__file__).parent / "golden"
SARIF_SCHEMA = Path(__file__).parent / "sarif_schema" / "sarif-schema-2.1.0.json"
SUFFIXES = {
    "text": "txt",
    "concise": "concise.txt",
    "json": "json",
    "jsonl": "jsonl",
    "github": "github.txt",
    "sarif": "sarif",
    "junit": "xml",
    "markdown": "md",
    "statistics": "statistics.txt",
}
REWRITE = "REWRITE_GOLDEN_FINDINGS"
"""Environment variable that makes the test write the golden files anew. Read the diff then."""

TYPO = Location(
    file="pyproject.toml",
    line=8,
    column=12,
    length=16,
    key="tool.clora-inspect.lora.main.target_modules[4]",
    text='           "linear_fc1_gat", "linear_fc1_up", "linear_fc2"]',
)
DRIFT = Drift(
    kept=192,
    added=0,
    removed=32,
    changed=0,
    params_before=41_943_040,
    params_after=32_505_856,
    lines=(
        DriftLine(
            change=Change.REMOVED,
            where="decoder.layers.{0..31}.mlp.linear_fc1[gate]",
            count=32,
            before="rank 16, in 4096, out 14336, A rank/tp, B out/tp",
            params=-9_437_184,
        ),
    ),
)
CLEAN = Drift(kept=384, added=0, removed=0, changed=0, params_before=7_000_000, params_after=7_000_000)


def _renderer(form: str) -> Callable[[CheckReport, Look], str]:
    """Return the renderer of a format, or of the counts that `--statistics` prints."""
    return statistics.render if form == "statistics" else renderer(form)


def typo(layout: str, **changes: Any) -> Finding:
    finding = Finding(
        code="CL101",
        name="unmatched-target",
        severity=Severity.ERROR,
        message='"linear_fc1_gat" matches no module',
        help="did you mean: linear_fc1_gate (32)",
        target="linear_fc1_gat",
        job="llama3-8b",
        layout=layout,
        location=TYPO,
    )
    return msgspec.structs.replace(finding, **changes)


def removed(layout: str) -> Finding:
    return Finding(
        code="CL703",
        name="placement-removed",
        severity=Severity.ERROR,
        message="32 placements are in the snapshot and not in the plan",
        help="meant? clora-inspect snapshot accept llama3-8b",
        details=("- decoder.layers.{0..31}.mlp.linear_fc1[gate]   rank 16, in 4096, out 14336   -9,437,184",),
        where="decoder.layers.{0..31}.mlp.linear_fc1[gate]",
        job="llama3-8b",
        layout=layout,
        location=Location(file=f"snapshots/llama3-8b/{layout}.json"),
    )


def job(name: str, layout: str, axes: str, drift: Drift | None, **more: Any) -> CheckedJob:
    fields: dict[str, Any] = {
        "placements": 192,
        "base_params": 8_030_261_248,
        "trainable_params": 32_505_856,
        "snapshot": f"snapshots/{name}/{layout}.json",
        **more,
    }
    return CheckedJob(job=name, layout=layout, axes=axes, model=name, drift=drift, **fields)


PROOFS = VerifyReport(
    versions={"torch": "2.13.0"},
    job="llama3-8b",
    layout="train",
    implementation="clora",
    size="tiny",
    dtype="float32",
    device="cpu",
    seed=0,
    ranks=2,
    proofs=(
        ProofResult(proof="zero-b", status=ProofStatus.PASSED, detail="bit-identical"),
        ProofResult(proof="liveness", code="CL503", status=ProofStatus.FAILED, detail="linear_fc2 gets no gradient"),
    ),
)

REPORT = CheckReport(
    jobs=(
        job("llama3-8b", "train", "tp4 pp2 sp", DRIFT, proofs=PROOFS),
        job("llama3-8b", "serve", "tp8 sp", DRIFT),
        job("qwen3-moe", "ep8", "ep8", CLEAN, placements=384, trainable_params=7_000_000),
        job("broken", "default", "no parallelism", None, placements=None, trainable_params=None),
    ),
    findings=(
        typo("train"),
        typo("serve"),
        removed("train"),
        removed("serve"),
        Finding(
            code="CL410",
            name="moving-expert-bias",
            severity=Severity.WARNING,
            message="the expert bias moves by 0.001 a step | <b>although</b> the base is frozen",
            job="qwen3-moe",
            layout="ep8",
        ),
        Finding(
            code="CL901",
            name="unused-allow",
            severity=Severity.INFO,
            message="the entry for CL104 covers no finding",
            help="remove it",
            location=Location(file="pyproject.toml", line=21, column=1),
        ),
    ),
    allowed=2,
    fail_on=Severity.ERROR,
    exit_code=ExitCode.FOUND,
)
EMPTY = CheckReport(jobs=(job("qwen3-moe", "ep8", "ep8", CLEAN),), findings=(), exit_code=ExitCode.OK)


def rendered(form: str, report: CheckReport = REPORT, look: Look | None = None) -> str:
    return _renderer(form)(report, look or Look())


@pytest.mark.parametrize("form", SUFFIXES)
def test_format_is_as_in_the_golden_file(form: str) -> None:
    text = rendered(form)
    path = GOLDEN / f"findings.{SUFFIXES[form]}"
    if os.environ.get(REWRITE):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_format_has_a_golden_file() -> None:
    assert set(SUFFIXES) == {*FORMATS, "statistics"}


@pytest.mark.parametrize("form", SUFFIXES)
def test_formats_are_the_same_twice_and_end_in_one_newline(form: str) -> None:
    text = rendered(form)
    assert text == rendered(form)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("form", SUFFIXES)
def test_hostile_text_stays_text(form: str) -> None:
    """Names come from configurations and models: none can drive a terminal, end a workflow command,
    or break a document.
    """
    hostile = '\x1b[31m::error::x\r\n::set-output name=a::b <script>&"]]>`|\u202e\ud800'
    finding = typo("train", message=hostile, where=hostile, target=hostile, help=hostile, details=(hostile,))
    report = msgspec.structs.replace(REPORT, findings=(finding,))
    if form in ("json", "jsonl", "sarif"):
        # JSON cannot hold a lone surrogate. No name has one: TOML and Python refuse them, too.
        report = msgspec.structs.replace(
            REPORT, findings=(typo("train", message=hostile[:-1], where=hostile[:-1], details=(hostile[:-1],)),)
        )
    text = rendered(form, report)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    # JSON keeps control characters: escaped, they can drive no terminal.
    assert "\u202e" not in text or form in ("json", "jsonl")
    if form == "github":
        assert [line.partition(" ")[0] for line in text.splitlines()] == ["::error"]
    if form in ("text", "concise"):
        assert not any(line.startswith("::") for line in text.splitlines())
    if form == "markdown":
        shown = rendered(
            form, msgspec.structs.replace(report, findings=(typo("train", message=hostile, help=hostile),))
        )
        assert not re.search(r"(?<!\\)[<|`](?!pyproject)", re.sub(r"\| .* \||\|-.*|`pyproject.toml:8:12`", "", shown))
    if form == "junit":
        ET.fromstring(text)


def test_text_in_ascii_has_nothing_else() -> None:
    rendered("text", look=Look(ASCII)).encode("ascii")


def test_text_has_colour_only_where_it_may() -> None:
    plain, coloured = rendered("text"), rendered("text", look=Look(color=True))
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[0-9]*m", "", coloured) == plain


def test_the_caret_stands_under_the_word() -> None:
    lines = rendered("text").splitlines()
    caret = next(number for number, line in enumerate(lines) if "^" in line)
    start, end = lines[caret].index("^"), lines[caret].rindex("^") + 1
    assert lines[caret - 1][start:end] == '"linear_fc1_gat"'


def test_one_finding_of_two_layouts_is_printed_once_and_counted_twice() -> None:
    text = rendered("text")
    assert text.count("CL101 error unmatched-target") == 1
    assert "= in: llama3-8b train, llama3-8b serve" in text
    assert "Found 4 errors (2 CL101, 2 CL703), 1 warning (1 CL410), 1 note (1 CL901) in 3 of 4 plans." in text


def test_many_details_are_cut_and_say_so() -> None:
    long = msgspec.structs.replace(REPORT, findings=(typo("train", details=tuple(f"line {n}" for n in range(40))),))
    text = rendered("text", long)
    assert "line 11" in text
    assert "line 12" not in text
    assert "and 28 more" in text
    assert "line 39" in rendered("json", long)


@pytest.mark.parametrize("form", SUFFIXES)
def test_a_clean_report(form: str) -> None:
    text = rendered(form, EMPTY)
    assert "CL1" not in text
    if form in ("concise", "github"):
        assert text == ""
    if form in ("text", "markdown", "statistics"):
        assert "Nothing found in 1 plan." in text


def test_json_reads_back() -> None:
    assert msgspec.json.decode(rendered("json"), type=CheckReport) == REPORT


def test_jsonl_is_one_object_a_line() -> None:
    records = [json.loads(line) for line in rendered("jsonl").splitlines()]
    assert [record["type"] for record in records] == ["finding"] * 6 + ["job"] * 4 + ["summary"]
    assert records[-1]["findings"] == {"error": 4, "warning": 1, "info": 1}
    assert records[-1]["exit_code"] == 1


@pytest.mark.parametrize("report", [REPORT, EMPTY], ids=["findings", "clean"])
def test_sarif_is_valid(report: CheckReport) -> None:
    schema = json.loads(SARIF_SCHEMA.read_text(encoding="utf-8"))
    validator = jsonschema.Draft4Validator(schema)
    document = json.loads(rendered("sarif", report))
    assert [error.message for error in validator.iter_errors(document)] == []
    document["runs"][0]["results"] = "none"
    assert not validator.is_valid(document)


def test_sarif_results_name_their_rules_and_keep_their_fingerprints() -> None:
    run = json.loads(rendered("sarif"))["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    prints = [result["partialFingerprints"]["cloraInspect/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)
    moved = msgspec.structs.replace(TYPO, line=80, column=2)
    later = msgspec.structs.replace(REPORT, findings=(typo("train", location=moved, message="another number: 33"),))
    assert (
        json.loads(rendered("sarif", later))["runs"][0]["results"][0]["partialFingerprints"]["cloraInspect/v1"]
        == prints[0]
    )


def test_sarif_has_a_rule_for_what_is_not_in_the_table() -> None:
    unknown = msgspec.structs.replace(REPORT, findings=(typo("train", code="CL999", name="from-the-future"),))
    [rule] = json.loads(rendered("sarif", unknown))["runs"][0]["tool"]["driver"]["rules"]
    assert rule["id"] == "CL999"
    assert rule["shortDescription"]["text"] == "from-the-future"


@pytest.mark.parametrize("number", [1, MOST, MOST + 1, 35])
def test_github_shows_no_more_than_a_step_may(number: int) -> None:
    findings = tuple(
        typo("train", message=f"{severity} {n}", severity=severity)
        for severity in (Severity.ERROR, Severity.WARNING)
        for n in range(number)
    )
    lines = rendered("github", msgspec.structs.replace(REPORT, findings=findings)).splitlines()
    for level, severity in (("::error ", "error"), ("::warning ", "warning")):
        mine = [line for line in lines if line.startswith(level)]
        assert len(mine) == min(number, MOST)
        assert all(any(re.search(rf"{severity} {n}(%0A|$)", line) for line in mine) for n in range(number))


def test_github_escapes_what_its_commands_read() -> None:
    finding = typo("train", message="50% done, see a:b\nnext", location=Location(file="a,b:c.toml", line=3))
    [line] = rendered("github", msgspec.structs.replace(REPORT, findings=(finding,))).splitlines()
    assert line.startswith(
        "::error title=CL101 unmatched-target,file=a%2Cb%3Ac.toml,line=3::50%25 done, see a:b%0Anext%0A= did"
    )


def test_junit_counts_failures_by_fail_on() -> None:
    root = ET.fromstring(rendered("junit"))
    assert (root.get("tests"), root.get("failures")) == ("7", "4")
    strict = ET.fromstring(rendered("junit", msgspec.structs.replace(REPORT, fail_on=Severity.INFO)))
    assert strict.get("failures") == "6"
    clean = ET.fromstring(rendered("junit", EMPTY))
    assert (clean.get("tests"), clean.get("failures")) == ("1", "0")


def test_the_step_summary_is_appended(tmp_path: Path) -> None:
    page = tmp_path / "summary.md"
    page.write_text("before\n")
    write_step_summary(REPORT, {"GITHUB_STEP_SUMMARY": str(page)})
    assert page.read_text(encoding="utf-8") == "before\n" + rendered("markdown")
    write_step_summary(REPORT, {})
    write_step_summary(REPORT, {"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "such" / "folder")})
    write_step_summary(REPORT, {"GITHUB_STEP_SUMMARY": "a\0b"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.md"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
def test_a_step_summary_that_is_no_file_is_never_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # In a thread, because this test could not end if the writer waited for a reader.
    writer = Thread(target=write_step_summary, args=(REPORT, {"GITHUB_STEP_SUMMARY": str(pipe)}), daemon=True)
    writer.start()
    writer.join(20)
    assert not writer.is_alive()
    # With a reader who has opened it and reads nothing, a long page would fill it.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_step_summary(REPORT, {"GITHUB_STEP_SUMMARY": str(pipe)})
        assert os.read(reader, 9) == b""
    finally:
        os.close(reader)
    for device in ("/dev/zero", "/dev/full", str(tmp_path)):
        write_step_summary(REPORT, {"GITHUB_STEP_SUMMARY": device})
