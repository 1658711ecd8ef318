"""A repository from its first configuration to an allow-list: what every step prints where, and
what it exits with.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import bare_environment
from proved_models import MODELS

from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from command_line import CommandLine, Ran

GOLDEN = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))

CONFIG = """\
[tool.clora-inspect.lora.main]
dim = 16
alpha = 32
target_modules = ["linear_q", "linear_k", "linear_v", "linear_proj",
                  "linear_fc1_gate", "linear_fc1_up", "linear_fc2"]

[tool.clora-inspect.jobs.dense]
model = "llama3-8b"
lora = "main"
set.model = { num_layers = 4 }
layouts = { train = { tp = 4, pp = 2 }, serve = { tp = 8 } }

[tool.clora-inspect.jobs.experts]
model = "mixtral-8x7b"
lora = "main"
set.model = { num_layers = 2 }
layouts = { train = { ep = 8 } }

[tool.clora-inspect.jobs.small]
model = "qwen2.5-0.5b"
lora = "main"
set.model = { num_layers = 2 }
"""

FORMATS = ("text", "concise", "json", "jsonl", "github", "sarif", "junit", "markdown")


class Repository:
    """A folder with a configuration, and the command run in it."""

    def __init__(self, root: Path, clora_inspect: CommandLine) -> None:
        self.root = root
        self.run = clora_inspect
        self.config = root / "pyproject.toml"
        self.config.write_text(CONFIG)

    def check(self, *words: str) -> Ran:
        return self.run("--check", "--no-progress", *words)

    def edit(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def add(self, text: str) -> None:
        self.config.write_text(self.config.read_text() + text)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all repositories: the same jobs are planned once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def repository(tmp_path: Path, cache: Path, clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    (tmp_path / ".clora_cache").symlink_to(cache, target_is_directory=True)
    return Repository(tmp_path, clora_inspect)


@pytest.fixture
def accepted(repository: Repository) -> Repository:
    """Accept the snapshots of the repository and return it."""
    assert repository.run("snapshot", "accept", "-q").status == ExitCode.OK
    return repository


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if UPDATE:
        path.write_text(text)
    assert text == path.read_text()


def codes(report: str) -> list[str]:
    return [finding["code"] for finding in json.loads(report)["findings"]]


def test_init_writes_a_configuration_that_plans(
    tmp_path: Path, clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert clora_inspect("check").status == ExitCode.USAGE
    ran = clora_inspect("config", "init", "qwen2.5-0.5b")
    assert (ran.status, ran.out) == (ExitCode.OK, "")
    assert "clora-inspect snapshot accept" in ran.err
    assert clora_inspect("config", "validate", "-q").status == ExitCode.OK
    again = clora_inspect("config", "init")
    assert again.status == ExitCode.USAGE
    assert "has a configuration already" in again.err


def test_the_first_check_misses_the_snapshots_and_accepting_them_mends_it(repository: Repository) -> None:
    first = repository.check()
    assert first.status == ExitCode.FOUND
    assert first.out.count("CL701 error missing-snapshot") == 4
    assert "clora-inspect snapshot accept small" in first.out
    assert "Checked in" in first.err
    assert {path.name for path in repository.root.glob("snapshots/*/*")} == {
        "train.json.new",
        "serve.json.new",
        "default.json.new",
    }

    ran = repository.run("snapshot", "accept")
    assert (ran.status, ran.out) == (ExitCode.OK, "")
    assert ran.err.count("Accepted snapshots/") == 4
    assert not list(repository.root.glob("snapshots/*/*.new"))

    clean = repository.check()
    assert clean.status == ExitCode.OK
    assert "CL7" not in clean.out


def test_snapshots_that_are_not_required_are_not_missed(repository: Repository) -> None:
    assert repository.check("--no-require-snapshot").status == ExitCode.OK
    assert repository.check("--no-snapshot").status == ExitCode.OK
    assert repository.check("--exit-zero").status == ExitCode.OK


def test_changed_targets_are_drift(accepted: Repository) -> None:
    accepted.edit('"linear_fc1_gate", ', "")
    ran = accepted.check()
    assert ran.status == ExitCode.FOUND
    golden("check-drift.txt", ran.out)


def test_a_typo_is_told_with_its_line_and_a_caret(accepted: Repository) -> None:
    accepted.edit("linear_fc1_gate", "linear_fc1_gat")
    ran = accepted.check("dense")
    assert ran.status == ExitCode.FOUND
    golden("check-typo.txt", ran.out)
    assert "  |                   ^^^^^^^^^^^^^^^^\n" in ran.out


@pytest.mark.parametrize("form", FORMATS)
def test_stdout_is_data_and_stderr_is_narration_in_every_format(
    accepted: Repository, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted.edit("linear_fc1_gate", "linear_fc1_gat")
    ran = accepted.check("-f", form, "-o", "-")
    assert ran.status == ExitCode.FOUND
    assert "CL101" in ran.out
    assert "CL101" not in ran.err
    assert "Checked in" not in ran.out
    if form in ("json", "sarif"):
        json.loads(ran.out)
    if form == "jsonl":
        assert all(isinstance(json.loads(line), dict) for line in ran.out.splitlines())
    assert ran.out == accepted.check("-f", form).out, "two runs say the same"


def test_several_outputs_of_one_run(accepted: Repository) -> None:
    ran = accepted.check("--write", "json=a.json", "--write", "sarif=b.sarif", "-q")
    assert ran.status == ExitCode.OK
    assert json.loads((accepted.root / "a.json").read_text())["exit_code"] == 0
    assert json.loads((accepted.root / "b.sarif").read_text())["version"] == "2.1.0"
    wrong = accepted.check("--write", "pdf=a.pdf")
    assert wrong.status == ExitCode.USAGE
    assert "write FORMAT=FILE" in wrong.err


def test_other_changes_are_told_apart(accepted: Repository) -> None:
    accepted.edit("dim = 16", "dim = 32")
    assert set(codes(accepted.check("dense", "-f", "json").out)) >= {"CL704"}
    accepted.edit("dim = 32", "dim = 16\ndropout = 0.1")
    report = json.loads(accepted.check("dense", "-f", "json").out)
    assert [row["drift"]["settings"] for row in report["jobs"]] == [["dropout 0 -> 0.1"]] * 2
    accepted.edit("\ndropout = 0.1", "")
    accepted.edit("serve = { tp = 8 }", "serve = { tp = 4 }")
    found = accepted.check("dense", "-f", "json").out
    assert "CL706" in codes(found)
    assert "tp 8 -> 4" in found
    accepted.edit("serve = { tp = 4 }", "serve = { tp = 8 }")
    accepted.edit("num_layers = 4 }", "num_layers = 6 }")
    assert {"CL705", "CL702"} <= set(codes(accepted.check("dense", "-f", "json").out))


def test_layers_of_a_wider_pipeline_are_the_same_placements(accepted: Repository) -> None:
    accepted.edit("pp = 2", "pp = 4")
    report = json.loads(accepted.check("dense", "--layout", "train", "-f", "json").out)
    (row,) = report["jobs"]
    assert (row["drift"]["kept"], row["drift"]["changed"]) == (28, 0)
    assert row["drift"]["layout"] == ["pp 2 -> 4"]


def test_nothing_is_left_to_review_in_ci(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert repository.check().status == ExitCode.FOUND
    assert not (repository.root / "snapshots").exists()


def test_orphans_are_told_and_pruned_when_asked(accepted: Repository) -> None:
    accepted.edit("jobs.small", "jobs.renamed")
    report = accepted.check("-f", "json")
    assert {"CL701", "CL707"} <= set(codes(report.out))
    assert accepted.run("snapshot", "prune", "--dry-run").status == ExitCode.OK
    assert (accepted.root / "snapshots" / "small" / "default.json").is_file()
    assert accepted.run("snapshot", "prune").status == ExitCode.OK
    assert not (accepted.root / "snapshots" / "small").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[: len(data) // 2], "is damaged"),
        (lambda data: data.replace(b'"schema": 1', b'"schema": 99'), "has schema 99, and this version reads up to 1"),
        (lambda data: b"<<<<<<< ours\n" + data, "markers of an unfinished merge"),
        (lambda data: data.replace(b'"a":[16,', b'"a":[8,', 1), "was edited by hand"),
        (lambda _: b"\xff\x00", "is damaged"),
    ],
    ids=["truncated", "newer", "merge", "edited", "binary"],
)
def test_a_spoilt_snapshot_is_told_and_the_other_jobs_are_checked(
    accepted: Repository, spoil: object, said: str
) -> None:
    path = accepted.root / "snapshots" / "small" / "default.json"
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    report = json.loads(accepted.check("-f", "json").out)
    (finding,) = [finding for finding in report["findings"] if finding["code"] == "CL708"]
    assert said in finding["message"]
    assert finding["location"] == {"file": "snapshots/small/default.json"}
    assert [row["drift"] is None for row in report["jobs"]] == [False, False, False, True]
    shown = accepted.run("snapshot", "show", "small")
    assert (shown.status, shown.out) == (ExitCode.USAGE, "")
    assert said in shown.err


def test_fail_on_decides_which_severity_fails(accepted: Repository) -> None:
    accepted.edit('"linear_k", ', "")
    accepted.run("snapshot", "accept", "-q")
    report = json.loads(accepted.check("dense", "-f", "json").out)
    severities = {finding["severity"] for finding in report["findings"]}
    assert severities
    assert "error" not in severities
    assert accepted.check("dense").status == ExitCode.OK
    assert accepted.check("dense", "--fail-on", "info").status == ExitCode.FOUND
    assert accepted.check("dense", "--fail-on", "info", "--select", "CL7").status == ExitCode.OK


def test_an_allowance_needs_a_reason_and_ends_on_its_day(accepted: Repository) -> None:
    accepted.edit('"linear_fc1_gate", ', "")
    accepted.run("snapshot", "accept", "-q")
    assert "CL104" in codes(accepted.check("dense", "-f", "json").out)
    accepted.add(
        '\n[[tool.clora-inspect.allow]]\nrule = "CL104"\nreason = "up alone, on purpose"\nuntil = 2999-01-01\n'
    )
    report = json.loads(accepted.check("-f", "json").out)
    assert "CL104" not in codes(json.dumps(report))
    assert report["allowed"] >= 3
    assert "CL104" in codes(accepted.check("--no-allow", "-f", "json").out)
    accepted.edit("2999", "1999")
    assert {"CL104", "CL902"} <= set(codes(accepted.check("-f", "json").out))
    accepted.edit('reason = "up alone, on purpose"\nuntil = 1999-01-01\n', "")
    assert {"CL104", "CL903"} <= set(codes(accepted.check("-f", "json").out))
    accepted.edit('rule = "CL104"', 'rule = "CL105"\nreason = "nothing of it"')
    found = json.loads(accepted.check("-f", "json").out)["findings"]
    (unused,) = [finding for finding in found if finding["code"] == "CL901"]
    assert unused["location"]["line"] == CONFIG.replace('"linear_fc1_gate", ', "").count("\n") + 3
    assert "CL901" not in codes(accepted.check("dense", "-f", "json").out), "only a whole check knows"


def test_a_baseline_keeps_the_files_comments(accepted: Repository) -> None:
    accepted.edit("linear_fc1_gate", "linear_fc1_gat")
    accepted.edit("dim = 16", "dim = 16  # as in the paper")
    accepted.run("snapshot", "accept", "-q")
    assert accepted.check("-q").status == ExitCode.FOUND
    ran = accepted.check("--add-allow", "old project")
    assert (ran.status, ran.out) == (ExitCode.OK, "")
    text = accepted.config.read_text()
    assert text.startswith(CONFIG.split("\n", 1)[0])
    assert "# as in the paper" in text
    entries = tomllib.loads(text)["tool"]["clora-inspect"]["allow"]
    assert {"rule": "CL101", "job": "dense", "target": "linear_fc1_gat", "reason": "old project"} in entries
    assert accepted.check("-q").status == ExitCode.OK


def test_a_baseline_is_written_where_other_tables_stand_between_ours(accepted: Repository) -> None:
    accepted.edit("linear_fc1_gate", "linear_fc1_gat")
    accepted.add('\n[tool.other]\nx = 1\n\n[tool.clora-inspect.check]\nfail-on = "error"\n')
    accepted.run("snapshot", "accept", "-q")
    assert accepted.check("--add-allow", "old project").status == ExitCode.OK
    written = tomllib.loads(accepted.config.read_text())["tool"]
    assert {"rule": "CL101", "job": "dense", "target": "linear_fc1_gat", "reason": "old project"} in written[
        "clora-inspect"
    ]["allow"]
    assert written["other"] == {"x": 1}
    assert accepted.check("-q").status == ExitCode.OK


def test_a_baseline_says_what_it_cannot_hold(accepted: Repository) -> None:
    accepted.edit("linear_fc1_gate", "linear_fc1_gat")
    accepted.edit("ep = 8", "ep = 3")
    ran = accepted.check("--add-allow", "old project")
    assert ran.status == ExitCode.FOUND
    assert "Wrote 2 entries to pyproject.toml" in ran.err
    assert [line.split()[0] for line in ran.out.splitlines() if line.startswith("CL")] == ["CL306", "CL703", "CL703"]
    assert "no entry can allow CL306, CL703" in ran.err
    # What was written is covered, and the rest is reported as before.
    assert accepted.check("-q").out.count("CL101 error") == 0
    assert accepted.check("--add-allow", "again", "--exit-zero").status == ExitCode.OK
    assert accepted.config.read_text().count("[[tool.clora-inspect.allow]]") == 2


def test_a_baseline_without_an_entry_says_why(accepted: Repository) -> None:
    ran = accepted.check("--add-allow", "old project")
    assert (ran.status, ran.err) == (ExitCode.OK, "pyproject.toml is as it was: there is nothing to allow\n")
    accepted.edit("dim = 16", "dim = 768")
    before = accepted.config.read_text()
    accepted.run("snapshot", "accept", "-q")
    ran = accepted.check("--add-allow", "old project")
    assert ran.status == ExitCode.OK
    assert "not fail the check (--fail-on error)" in ran.err
    assert "Wrote" not in ran.err
    for file in accepted.root.glob("snapshots/*/*.json"):
        file.unlink()
    ran = accepted.check("--add-allow", "old project", "--require-snapshot")
    assert ran.status == ExitCode.FOUND
    assert "pyproject.toml is as it was: nothing that fails can be allowed by an entry" in ran.err
    assert "CL701" in ran.out
    assert accepted.config.read_text() == before


def test_entries_of_a_baseline_have_a_blank_line_before_them(accepted: Repository) -> None:
    accepted.edit("linear_fc1_gate", "linear_fc1_gat")
    accepted.run("snapshot", "accept", "-q")
    accepted.check("--add-allow", "old project")
    lines = accepted.config.read_text().splitlines()
    headings = [number for number, line in enumerate(lines) if line == "[[tool.clora-inspect.allow]]"]
    assert headings
    assert [lines[number - 1] for number in headings] == [""] * len(headings)


@pytest.mark.parametrize("name", ["pyproject.toml", "config.json"])
def test_a_byte_order_mark_is_no_mistake(accepted: Repository, name: str) -> None:
    path = accepted.config.parent / name
    if name == "config.json":
        import clora_inspect.sources.architectures as built_in

        path.write_bytes(Path(built_in.__file__).with_name("qwen2.5-0.5b.json").read_bytes())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    ran = accepted.run("plan", "config.json" if name == "config.json" else "dense", "-q")
    assert ran.status == ExitCode.OK, ran.err


def test_jobs_that_cannot_be_planned_are_findings_and_the_exit_code_says_why(accepted: Repository) -> None:
    accepted.edit("ep = 8", "ep = 3")
    report = accepted.check("-f", "json")
    assert report.status == ExitCode.FOUND
    assert "CL306" in codes(report.out)
    assert [row["placements"] is None for row in json.loads(report.out)["jobs"]] == [False, False, True, False]
    accepted.edit("mixtral-8x7b", "mixtral-9x7b")
    unknown = accepted.check("-f", "json")
    assert unknown.status == ExitCode.USAGE
    assert "CL803" in codes(unknown.out)
    (accepted.root / "models.py").write_text("def build():\n    raise RuntimeError('no weights here')\n")
    accepted.edit('"mixtral-9x7b"', '"models.py:build"')
    accepted.edit("set.model = { num_layers = 2 }\nlayouts = { train = { ep = 3 } }", "")
    failed = accepted.check("-f", "json")
    assert failed.status == ExitCode.FOUND
    assert "CL803" in codes(failed.out)
    assert "no weights here" in failed.out


def test_a_model_that_is_not_there_is_a_finding_beside_those_of_the_other_jobs(accepted: Repository) -> None:
    report = accepted.check("nosuch.json", "dense", "-f", "json")
    assert report.status == ExitCode.USAGE
    assert codes(report.out) == ["CL803"]
    assert [row["placements"] is None for row in json.loads(report.out)["jobs"]] == [True, False, False]


def test_a_saved_plan_is_a_finding_beside_those_of_the_other_jobs(accepted: Repository) -> None:
    accepted.run("plan", "dense", "-o", "saved.json", "-q")
    report = accepted.check("saved.json", "dense", "-f", "json")
    assert report.status == ExitCode.USAGE
    assert codes(report.out) == ["CL803"]
    assert "is a saved plan or a snapshot" in report.out


@pytest.mark.parametrize("option", ["--target-modules", "--config"])
def test_a_finding_points_at_the_file_only_where_the_file_says_it(repository: Repository, option: str) -> None:
    """The values are those of the file, so that the plan comes from the cache; the place is not."""
    repository.edit('"linear_v", ', "")
    settings = tomllib.loads(repository.config.read_text())["tool"]["clora-inspect"]
    targets = settings["lora"]["main"]["target_modules"]
    value = f"lora.main.target_modules={json.dumps(targets)}" if option == "--config" else ",".join(targets)

    def place(*options: str) -> str:
        report = json.loads(repository.check("small", "--no-snapshot", "-f", "json", *options).out)
        return next(each["location"]["key"] for each in report["findings"] if each["code"] == "CL104")

    written = place()
    assert written == "tool.clora-inspect.lora.main.target_modules"
    assert place(option, value) == "tool.clora-inspect.jobs.small.model"
    assert place() == written


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch"], "'nosuch' is no configured job, no built-in architecture and no file"),
        (["dens"], "Did you mean dense?"),
        (["dense", "--layout", "trian"], "Did you mean train?"),
        (["--select", "CL99999"], "--select"),
        (["--config", "chek.select=1"], 'unknown key "chek". Did you mean check?'),
        (["--config", "missing.toml"], "missing.toml cannot be read"),
        (["-C", "nowhere"], "nowhere"),
        (["--add-allow", " "], "--add-allow': it is empty"),
    ],
)
def test_what_is_held_wrong_exits_with_2(accepted: Repository, words: list[str], said: str) -> None:
    ran = accepted.check(*words)
    assert (ran.status, ran.out) == (ExitCode.USAGE, "")
    assert said in ran.err


def test_diff_shows_what_changed_and_exits_with_1(accepted: Repository) -> None:
    same = accepted.run("diff", "dense")
    assert same.status == ExitCode.OK
    assert same.out.count("28 kept, nothing changed") == 2
    accepted.edit('"linear_fc1_gate", ', "")
    ran = accepted.run("diff", "dense/train")
    assert ran.status == ExitCode.FOUND
    assert "- " in ran.out
    assert "decoder.layers.{0..3}.mlp.linear_fc1[gate]" in ran.out
    two = accepted.run("diff", "snapshots/dense/train.json", "dense/serve", "-f", "json")
    (drift,) = json.loads(two.out)["diffs"]
    assert (drift["removed"], drift["layout"]) == (4, ["tp 4 -> 8", "pp 2 -> 1"])
    several = accepted.run("diff", "dense", "small")
    assert several.status == ExitCode.USAGE
    assert "dense/train, dense/serve" in several.err


def test_review_refuses_without_a_terminal_and_lists_what_to_do(accepted: Repository) -> None:
    ran = accepted.run("snapshot", "review")
    assert (ran.status, ran.out) == (ExitCode.USAGE, "")
    assert "clora-inspect snapshot accept" in ran.err


def review(root: Path, keys: str) -> tuple[int, str]:
    """Run the review on a pseudo-terminal and press `keys`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "clora_inspect", "snapshot", "review"],
        cwd=root,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**bare_environment(), "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    for number, key in enumerate(keys, 1):
        while said.count(b"i details") < number and (chunk := _read(ours)):
            said += chunk
        # A terminal that changes its mode drops what was typed before: the command reads its key a
        # moment after it asked.
        time.sleep(0.3)
        os.write(ours, key.encode())
    while chunk := _read(ours):
        said += chunk
    os.close(ours)
    return process.wait(timeout=60), re.sub(r"\x1b\[[0-9;]*m", "", said.decode())


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def test_review_asks_one_by_one_and_a_capital_answers_for_the_rest(accepted: Repository) -> None:
    accepted.edit('"linear_fc1_gate", ', "")
    accepted.check()
    status, said = review(accepted.root, "dirsA")
    assert status == ExitCode.FOUND, said
    assert "1 of 3 · dense serve: 24 kept, 0 added, 4 removed, 0 changed" in said
    assert "decoder.layers.{0..3}.mlp.linear_fc1[gate]" in said
    assert "1 accepted, 1 rejected, 1 skipped" in said
    report = json.loads(accepted.check("-f", "json").out)
    assert [bool(row["drift"]["removed"]) for row in report["jobs"]] == [True, True, False, False]


def test_review_shows_the_changes_before_it_asks(accepted: Repository) -> None:
    accepted.edit('"linear_fc1_gate", ', "")
    accepted.check("dense")
    status, said = review(accepted.root, "S")
    assert status == ExitCode.FOUND, said
    asked = said.index("a accept")
    assert said.index("decoder.layers.{0..3}.mlp.linear_fc1[gate]") < asked
    assert said.index("rank 16") < asked


@pytest.mark.parametrize("marker", ["folder", "file", "none"])
def test_annotations_name_files_from_the_root_of_the_repository(
    tmp_path: Path, clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch, marker: str
) -> None:
    """GitHub silently drops annotations of files that it does not find, so paths must begin at the
    root even if the configuration is in a folder below it.
    """
    below = tmp_path / "services" / "fine tuning"
    below.mkdir(parents=True)
    (below / "pyproject.toml").write_text(CONFIG.replace('"linear_fc1_gate"', '"linear_fc1_gat"'))
    if marker == "folder":
        (tmp_path / ".git").mkdir()
    elif marker == "file":
        (tmp_path / ".git").write_text("gitdir: elsewhere\n")
    monkeypatch.chdir(below)
    words = ("check", "small", "--no-snapshot", "--no-progress", "-f", "github", "--write", "sarif=s.json")
    annotated = clora_inspect(*words, "--write", "json=r.json")
    (uri,) = {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in json.loads((below / "s.json").read_text())["runs"][0]["results"]
    }
    report = json.loads((below / "r.json").read_text())
    inside = marker != "none"
    assert ("file=services/fine tuning/pyproject.toml,line=4," in annotated.out) == inside
    assert uri == ("services/fine%20tuning/pyproject.toml" if inside else "pyproject.toml")
    assert report["folder"] == ("services/fine tuning" if inside else "")
    assert {finding["location"]["file"] for finding in report["findings"]} == {"pyproject.toml"}


VERIFIED = """\
[check]
verify = "tiny"
require-snapshot = false
select = ["CL5"]

[jobs.steady]
model = "models.py:steady"
layouts = { one = {}, two = { tp = 2 } }

[jobs.noisy]
model = "models.py:noisy"
"""


def test_a_check_can_prove_every_job_once(
    tmp_path: Path, clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "clora-inspect.toml").write_text(VERIFIED)
    ran = clora_inspect("check", "--no-progress", "-f", "json")
    report = json.loads(ran.out)
    assert ran.status == ExitCode.FOUND, ran.err
    (finding,) = report["findings"]
    assert (finding["code"], finding["job"]) == ("CL506", "noisy")
    assert finding["help"] == "see all proofs: clora-inspect verify noisy/default"
    proofs = {(row["job"], row["layout"]): row["proofs"] for row in report["jobs"]}
    assert proofs["steady", "two"] is None, "its layouts shrink to the same one rank"
    passed = {proof["proof"] for proof in proofs["steady", "one"]["proofs"] if proof["status"] == "passed"}
    assert passed >= {"base-twice", "zero-b", "liveness", "causality", "merge", "gradients", "checkpoint"}
    assert any("dropout" in said for said in proofs["steady", "one"]["shrunk"])
    off = clora_inspect("check", "noisy", "--verify", "off", "--no-progress", "-f", "json")
    assert (off.status, json.loads(off.out)["findings"]) == (ExitCode.OK, [])
