"""`plan` and `check` say the same about a plan, each finding once."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

CODE = re.compile(r"^(CL\d+) ", re.MULTILINE)
SMALL = ("qwen2.5-0.5b", "--set", "model.num_layers=2")

CONFIG = """\
[lora.few]
target_modules = ["linear_q", "linear_vv"]

[jobs.one]
model = "qwen2.5-0.5b"
lora = "few"
set.model = { num_layers = 2 }

[jobs.two]
model = "qwen2.5-0.5b"
set.model = { num_layers = 2 }

[jobs.three]
model = "qwen2.5-0.5b"
set.model = { num_layers = 2 }
"""


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "clora-inspect.toml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    "words",
    [
        SMALL,
        (*SMALL, "--exclude-modules", "foo"),
        (*SMALL, "--target-modules", "linear_q"),
        ("deepseek-v2-lite", "--set", "model.num_layers=2"),
        ("mixtral-8x7b", "--set", "model.num_layers=2", "--target-modules", "linear_q,linear_fc2"),
    ],
)
def test_plan_shows_what_check_finds(clora_inspect: CommandLine, words: tuple[str, ...]) -> None:
    plan = clora_inspect("plan", *words)
    check = json.loads(clora_inspect("check", *words, "--no-snapshot", "-f", "json").out)
    found = {finding["code"] for finding in check["findings"]}
    assert found
    assert set(CODE.findall(plan.out)) == found
    # Messages that share a line and a fix are joined, so each is looked for alone.
    for finding in check["findings"]:
        assert plan.out.count(finding["message"]) == 1, finding


def test_a_typed_mistake_is_said_once(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plan", *SMALL, "--target-modules", "linear_qq")
    assert ran.status == ExitCode.USAGE
    assert (ran.out + ran.err).count("matches no module") == 1
    assert ran.err.count("error: ") == 1
    assert CODE.findall(ran.out) == ["CL107"]


@pytest.mark.usefixtures("configured")
def test_a_written_mistake_is_a_finding_and_what_was_not_looked_at_is_named(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plan", "one")
    assert ran.status == clora_inspect("check", "one", "--no-snapshot").status == ExitCode.FOUND
    assert (ran.out + ran.err).count('"linear_vv" matches no module') == 1
    assert "Compare with the snapshot as well: clora-inspect check one/default" in ran.out
    # Typed for this run, it is a mistake in the command line.
    assert clora_inspect("plan", "one", "--target-modules", "linear_vv").status == ExitCode.USAGE


@pytest.mark.usefixtures("configured")
def test_the_command_for_the_snapshot_has_the_options_that_make_the_job(clora_inspect: CommandLine) -> None:
    options = ("--tp", "2", "--no-sp", "--dim", "4", "--target-modules", "linear_q,*.0.*.linear_v")
    options += ("--set", "model.layernorm_epsilon=0.01")
    shown = clora_inspect("plan", "one", *options).out
    command = re.search(r"Compare with the snapshot as well: clora-inspect check (.*)", shown)
    assert command, shown
    told = clora_inspect("plan", *shlex.split(command[1]), "-f", "json")
    assert told.status == clora_inspect("check", *shlex.split(command[1]), "--no-snapshot").status == ExitCode.OK
    assert told.out == clora_inspect("plan", "one", *options, "-f", "json").out


def test_what_is_allowed_is_not_shown(clora_inspect: CommandLine, configured: Path) -> None:
    configured.write_text(CONFIG + '\n[[allow]]\nrule = "CL101"\nreason = "known"\n')
    ran = clora_inspect("plan", "one")
    assert (ran.status, 'linear_vv"' in ran.out) == (ExitCode.OK, False)


@pytest.mark.usefixtures("configured")
def test_a_finding_of_several_jobs_is_printed_once(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("check", "--no-snapshot")
    assert ran.out.count("\nCL108 ") == 1
    assert "= in: two default, three default" in ran.out
    assert "--> also clora-inspect.toml:13" in ran.out
    # Editors open the line of each.
    assert clora_inspect("check", "--no-snapshot", "-f", "concise").out.count(" info CL108 ") == 2


@pytest.mark.parametrize("option", ["--target-modules", "--exclude-modules"])
def test_thousands_of_wrong_targets_are_one_message(clora_inspect: CommandLine, option: str) -> None:
    wrong = [f"nothing{number}" for number in range(3000)]
    words = (*SMALL, option, ",".join(wrong))
    ran = clora_inspect("plan", *words)
    said = ran.out + ran.err
    assert said.count("match no module") == 1
    assert re.search(r'3,000 \w.* match no module: "nothing0", "nothing1", "nothing2" and 2,997 more', said)
    assert len(said) < 8000
    report = json.loads(clora_inspect("check", *words, "--no-snapshot", "-f", "json").out)
    (finding,) = [each for each in report["findings"] if "match no module" in each["message"]]
    assert finding["details"] == [f'"{name}"' for name in wrong]
    assert len(clora_inspect("check", *words, "--no-snapshot", "-f", "github").out) < 8000


@pytest.mark.usefixtures("configured")
def test_a_quiet_check_prints_findings_only(clora_inspect: CommandLine) -> None:
    loud = clora_inspect("check", "--no-snapshot")
    ran = clora_inspect("check", "--no-snapshot", "-q")
    assert ran.out.startswith("CL101 error")
    assert "Found" not in ran.out
    assert "layout   " not in ran.out
    assert loud.out.startswith(ran.out)
    assert clora_inspect("check", "--no-snapshot", "-q", "--select", "CL2").out == ""
