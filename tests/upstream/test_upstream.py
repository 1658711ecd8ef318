"""`make upstream`: what it makes of reports, how it holds differences against the list, and the
page. No test here runs another release.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import can_i_use
import pytest
import run
from bridge_tests import FILES, QUESTIONS, question_of
from can_i_use import Result, merged, read_results, result_of, write_results
from listed_differences import EVERY_RELEASE, FILE, Judged, Listed, judge, read_list
from source_tree import REPOSITORY, NoSourceTreeError, source_tree
from upstream_rows import JOBS, LIBRARY, Row, job_rows_of, library_row_of, names, plan_row, verify_row_of

CLEAN: dict[str, Any] = {"lines": [], "settings": [], "base": [], "layout": []}
RENAMED = {"change": "changed", "where": "mtp.b.x[up]", "was": "mtp.a.x[up]", "before": "rank 16", "after": "rank 16"}
RESHAPED = {"change": "changed", "where": "d.fc1", "before": "rank 16", "after": "rank 8"}


def _plan(job: str, **drift: Any) -> dict[str, Any]:
    return {"job": job, "placements": 12, "drift": CLEAN | drift}


def _finding(job: str, code: str, severity: str = "error") -> dict[str, Any]:
    return {"job": job, "code": code, "severity": severity, "message": "what it says"}


@pytest.mark.parametrize(
    ("jobs", "findings", "differences"),
    [
        ([_plan("a")], [], ()),
        # Those of other jobs are not this row's.
        ([_plan("a"), _plan("b", base=["9 parameters, it had 8"])], [_finding("b", "CL803")], ()),
        ([_plan("a", base=["9 parameters, it had 8"])], [_finding("a", "CL705")], ("9 parameters, it had 8",)),
        # Two layouts with the same difference.
        ([_plan("a", base=["1 X, it had none"]), _plan("a", base=["1 X, it had none"])], [], ("1 X, it had none",)),
        ([_plan("a", lines=[RENAMED])], [], ("renamed: mtp.a.x[up] to mtp.b.x[up]",)),
        ([_plan("a", lines=[RESHAPED])], [], ("changed: d.fc1: rank 16 -> rank 8",)),
        (
            [_plan("a", lines=[RENAMED | {"after": "rank 8"}])],
            [],
            ("renamed: mtp.a.x[up] to mtp.b.x[up]", "changed: mtp.b.x[up]: rank 16 -> rank 8"),
        ),
        (
            [_plan("a", lines=[{"change": "added", "where": "d.x", "after": "rank 16"}])],
            [],
            ("added: d.x: rank 16",),
        ),
        ([_plan("a", settings=["dim 16 -> 8"], layout=["tp 4 -> 8"])], [], ("dim 16 -> 8", "tp 4 -> 8")),
        ([_plan("a")], [_finding("a", "CL803"), _finding("a", "CL802", "warning")], ("CL803: what it says",)),
        ([], [_finding("a", "CL803")], ("not planned", "CL803: what it says")),
        ([{"job": "a", "placements": 12, "drift": None}], [], ("no snapshot",)),
    ],
)
def test_a_plan_differs_in_its_drift_and_its_errors(
    jobs: list[dict[str, Any]], findings: list[dict[str, Any]], differences: tuple[str, ...]
) -> None:
    row = plan_row("a", {"jobs": jobs, "findings": findings})
    assert row.name == "plan a"
    assert row.differences == differences


def test_a_proof_that_failed_or_was_left_out_is_a_difference() -> None:
    proofs = [
        {"proof": "surgery", "status": "passed", "detail": "14 adapters"},
        {"proof": "dropout", "status": "skipped", "detail": "no dropout"},
        {"proof": "export", "status": "skipped", "detail": "not exported"},
        {"proof": "twice", "status": "failed", "detail": "nothing trains"},
        # One that no row can run is a difference when it fails.
        {"proof": "layout", "status": "failed", "detail": "other rows"},
    ]
    row = verify_row_of("verify a", {"proofs": proofs})
    assert row.summary == "1 proved"
    assert row.differences == (
        "export skipped: not exported",
        "twice failed: nothing trains",
        "layout failed: other rows",
    )


@pytest.mark.parametrize(
    ("cases", "summary", "differences"),
    [
        ("<testcase classname='t' name='a'/>", "1 passed", ()),
        (
            "<testcase classname='t' name='a[x]'><failure/></testcase><testcase classname='t' name='b'><skipped/></testcase>",
            "0 passed, 1 failure, 1 skipped",
            ("t.a[x]: failure",),
        ),
        ("<testcase classname='t' name='a'><error/></testcase>" * 2, "0 passed, 2 errors", ("t.a: error",) * 2),
        ("", "0 passed", ("no test was run",)),
    ],
)
def test_each_failing_test_is_a_difference(cases: str, summary: str, differences: tuple[str, ...]) -> None:
    row = library_row_of(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert (row.summary, row.differences) == (summary, differences)


def test_each_question_about_jobs_has_the_tests_that_answer_it() -> None:
    cases = (
        "<testcase name='test_the_gate_is_called_on_the_model_of_the_setup'/>"
        "<testcase classname='t' name='test_exports_hold_every_adapter_bit_for_bit[ep2]'><failure/></testcase>"
        "<testcase name='test_what_is_loaded[grouped experts]'/>"
        "<testcase name='test_what_is_loaded[latent attention]'/>"
        "<testcase name='test_what_is_loaded[tp2 and a plain linear]'/>"
        "<testcase name='test_what_is_written[tp4]'><skipped/></testcase>"
    )
    rows = {row.name: row for row in job_rows_of(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")}
    assert list(rows) == [f"jobs {asked}" for asked in QUESTIONS]
    assert {name: row.summary for name, row in rows.items() if not row.differences} == {
        "jobs the gate": "1 passed",
        "jobs checkpoints, latent attention": "1 passed",
        "jobs checkpoints, experts": "1 passed",
        "jobs checkpoints, Llama": "1 passed, 1 skipped",
    }
    assert rows["jobs export, Qwen3-MoE and DeepSeek-V3 at ep 2"].differences == (
        "t.test_exports_hold_every_adapter_bit_for_bit[ep2]: failure",
    )
    # A question without an answer is not answered with yes, and no test is dropped without a word.
    assert rows["jobs resuming, Llama"].differences == ("no test was run",)
    with pytest.raises(LookupError, match="test_new answers no question"):
        job_rows_of("<testsuites><testcase name='test_new'><failure/></testcase></testsuites>")


def test_every_test_of_jobs_answers_a_question() -> None:
    tests = [
        name for file in FILES for name in re.findall(r"^def (test_\w+)", (REPOSITORY / file).read_text(), re.MULTILINE)
    ]
    assert len(tests) >= 12
    # Without the values of its parameters, as no test has only other ones.
    about_linears = "test_megatron_bridge_takes_an_adapted_linear_for_what_its_base_is"
    exports = "test_exports_hold_every_adapter_bit_for_bit"
    assert [name for name in tests if not question_of(name)] == [exports, about_linears]
    assert all(question_of(f"{exports}[{case}]") for case in ("some parts", "tp2", "ep2"))
    assert all(question_of(f"{about_linears}[{case}]") for case in ("shared-experts", "mla"))


LISTED = [
    Listed(rows=("plan a",), releases=("0.17", "0.18"), changes=("renamed: *x[up] to *",), reason="a rename"),
    Listed(rows=("plan a", "plan b"), releases=(EVERY_RELEASE,), changes=("1 X, it had none",), reason="an X"),
]


@pytest.mark.parametrize(
    ("row", "series", "differences", "unlisted", "gone"),
    [
        ("plan a", "0.17", ("renamed: a.x[up] to b.x[up]", "1 X, it had none"), (), ()),
        # Another release does not have this difference.
        ("plan a", "0.19", ("renamed: a.x[up] to b.x[up]", "1 X, it had none"), ("renamed: a.x[up] to b.x[up]",), ()),
        ("plan a", "0.18", ("1 X, it had none",), (), ("renamed: *x[up] to *",)),
        ("plan b", "0.17", (), (), ("1 X, it had none",)),
        ("plan c", "0.17", ("1 X, it had none",), ("1 X, it had none",), ()),
        # Brackets and dots are no patterns.
        (
            "plan a",
            "0.17",
            ("renamed: a.xu to b.xu", "1 X, it had none"),
            ("renamed: a.xu to b.xu",),
            ("renamed: *x[up] to *",),
        ),
    ],
)
def test_unlisted_differences_and_listed_ones_that_are_gone_are_bad(
    row: str, series: str, differences: tuple[str, ...], unlisted: tuple[str, ...], gone: tuple[str, ...]
) -> None:
    judged = judge(Row(row, "12 adapters", differences), series, LISTED)
    assert (judged.unlisted, judged.gone) == (unlisted, gone)
    assert judged.is_good == (not unlisted and not gone)
    printed = run.line(judged)
    assert ("FAILED" in printed) == (not judged.is_good)
    assert all(sentence in printed for sentence in (*unlisted, *gone))


def test_the_list_is_about_rows_that_are_run_and_gives_reasons() -> None:
    listed = read_list(FILE.read_text())
    assert listed
    for entry in listed:
        assert set(entry.rows) <= set(names()), f"no run has these rows: {set(entry.rows) - set(names())}"
        assert entry.rows
        assert entry.releases
        assert entry.changes
        assert entry.reason
        assert all(release == EVERY_RELEASE or release.count(".") == 1 for release in entry.releases)


def _result(
    release: str, name: str, *, notes: tuple[str, ...] = (), bad: tuple[str, ...] = (), bridge: str = ""
) -> Result:
    judged = Judged(Row(name, "12 proved", (*notes, *bad)), reasons=notes, unlisted=bad, gone=())
    version = "0.20.0" if release.startswith("main") else release
    return result_of(
        judged,
        release=release,
        bridge=bridge,
        version=version,
        date="2026-01-02",
        python="3.12.1",
        command="make upstream",
    )


def test_a_run_replaces_its_own_rows_and_keeps_those_of_other_releases() -> None:
    old = [_result("0.9.1", "plan llama3-8b"), _result("main", "plan llama3-8b"), _result("0.17.1", LIBRARY)]
    old += [_result("0.17.1", "plan of a job that is no more"), _result("0.17.1", "verify llama3-8b")]
    new = [_result("0.17.1", "verify llama3-8b", bad=("zero-b failed: 3",)), _result("0.17.1", "plan llama3-8b")]
    both = merged(old, new)
    assert [(result.release, result.name, result.good) for result in both] == [
        ("0.9.1", "plan llama3-8b", True),
        ("0.17.1", "plan llama3-8b", True),
        ("0.17.1", LIBRARY, True),
        ("0.17.1", "verify llama3-8b", False),
        ("main", "plan llama3-8b", True),
    ]
    assert read_results(write_results(both)) == both


def test_the_page_says_what_can_be_used_with_which_release() -> None:
    page = can_i_use.page(
        merged(
            [],
            [
                _result("0.17.1", "plan llama3-8b"),
                _result("0.17.1", "plan gemma2-9b"),
                _result("0.17.1", "verify llama3-8b"),
                _result("0.17.1", "procs llama3-8b"),
                _result("0.17.1", LIBRARY),
                _result("main", "plan llama3-8b", notes=("an X | a Y",)),
                _result("main", "plan gemma2-9b"),
                _result("main", "verify llama3-8b"),
                _result("main", "plan kimi-k2", bad=("not planned",)),
                _result("main", LIBRARY, bad=tuple(f"t.{number}: failure" for number in range(7))),
                _result("0.9.1", LIBRARY, notes=("a fault of its own",)),
                _result("main", "jobs the gate", bridge="0.8.0"),
                _result("main", "jobs the gate", bridge="0.9.0", bad=("t.gate: failure",)),
                _result("0.17.1", "jobs resuming, Llama", bridge="0.4.2"),
            ],
        )
    )
    lines = page.splitlines()
    assert "|  | 0.9.1 | 0.17.1 | main |" in lines
    assert "| llama3-8b | - | proved, on 2 ranks | proved, differs |" in lines
    assert "| gemma2-9b | - | plans | plans |" in lines
    assert "| kimi-k2 | - | - | **no** |" in lines
    assert f"| {JOBS[0]} | - | - | - |" in lines
    assert "| tests/clora | 12 proved, for the reason below | 12 proved | **no**: 12 proved |" in lines
    # Rows of Megatron-Bridge have a table of their own.
    assert "| Megatron-Bridge | 0.4.2 | 0.8.0 | 0.9.0 |" in lines
    assert "| with megatron-core | 0.17.1 | main | main |" in lines
    assert "| the gate | - | 12 proved | **no**: 12 proved |" in lines
    assert "| resuming, Llama | 12 proved | - | - |" in lines
    assert lines.count("## Megatron-Bridge 0.8.0, megatron-core main") == 1
    assert any("t.4: failure; and 2 more |" in line for line in lines)
    # Below: only what the first table does not say.
    assert "| plan llama3-8b | 12 proved | an X \\| a Y | 2026-01-02, Python 3.12.1 |" in lines
    assert "| plan kimi-k2 | 12 proved | **no**: not planned | 2026-01-02, Python 3.12.1 |" in lines
    assert "| verify llama3-8b | 12 proved |  | 2026-01-02, Python 3.12.1 |" in lines
    assert sum(line.startswith("| plan ") for line in lines) == 2


def test_the_committed_page_shows_the_committed_results() -> None:
    results = read_results(can_i_use.RESULTS.read_text())
    assert can_i_use.PAGE.read_text() == can_i_use.page(merged(results, [])), (
        "write the page anew: python tests/upstream/can_i_use.py"
    )
    assert merged(results, []) == results


def _megatron(folder: Path, info: str) -> Path:
    (folder / "megatron" / "core").mkdir(parents=True)
    (folder / "megatron" / "core" / "package_info.py").write_text(info)
    return folder


def test_a_source_tree_says_which_release_it_is(tmp_path: Path) -> None:
    megatron = _megatron(tmp_path, "MAJOR = 0\nMINOR = 18\nPATCH = 2\n")
    bridge = tmp_path / "bridge" / "src" / "megatron" / "bridge"
    bridge.mkdir(parents=True)
    with pytest.raises(NoSourceTreeError, match="--bridge-release"):
        source_tree(megatron, tmp_path / "bridge")
    (bridge / "package_info.py").write_text("MAJOR = 0\nMINOR = 5\nPATCH = 1\n")
    tree = source_tree(megatron, tmp_path / "bridge")
    assert (tree.version, tree.series, tree.bridge_release) == ("0.18.2", "0.18", "0.5.1")
    assert tree.environment()["CLORA_BRIDGE_RELEASE"] == "0.5.1"
    tree = source_tree(megatron, tmp_path / "bridge", "main of 2026-08-22")
    assert tree.environment()["CLORA_BRIDGE_RELEASE"] == "main"
    assert "CLORA_BRIDGE_RELEASE" not in source_tree(megatron).environment()
    path = tree.environment()["PYTHONPATH"].split(":")
    assert path[:2] == [str(tmp_path.resolve()), str((tmp_path / "bridge" / "src").resolve())]


def test_a_folder_that_is_no_source_tree_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoSourceTreeError, match="does not say its version"):
        source_tree(_megatron(tmp_path, "VERSION = ()\n"))
    assert run.main([str(tmp_path / "none")]) == 2
    assert "is no source tree of megatron-core" in capsys.readouterr().err
    (tmp_path / "megatron" / "core" / "package_info.py").write_text("MAJOR = 0\nMINOR = 18\nPATCH = 2\n")
    assert run.main([str(tmp_path), "--bridge", str(tmp_path)]) == 2
    assert "no source tree of Megatron-Bridge" in capsys.readouterr().err
