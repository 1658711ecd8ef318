"""Mistakes in layouts, formats and output paths, and in the commands that take no job: each has the
exit status of the one whose mistake it is, and none is an "internal error".
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

OK, FOUND, USAGE, BUILD = ExitCode.OK, ExitCode.FOUND, ExitCode.USAGE, ExitCode.BUILD

TINY = "llama3-8b --set model.num_layers=1"
JOB_COMMANDS = ("plan", "check --no-snapshot", "verify", "graph", "explain decoder", "diff")

LAYOUTS = {
    "--tp 0": USAGE,
    "--tp -1": USAGE,
    "--tp x": USAGE,
    "--tp 3": USAGE,
    "--tp 1e3": USAGE,
    "--tp 99999999999999999999": USAGE,
    "--pp 7": USAGE,
    "--vpp 2": USAGE,
    "--ep 2": USAGE,
    "--etp 2": USAGE,
    "--cp 2 --world-size 3": USAGE,
    "--world-size 0": USAGE,
    "--layout nosuch": USAGE,
    "--model-class nosuch": USAGE,
    "--lora nosuch": USAGE,
    "--dim 0": USAGE,
    "--alpha nan": USAGE,
    "--set model": USAGE,
    "--set model.nosuch=1": USAGE,
    "--set lora.nosuch=1": USAGE,
    "--set model.hidden_size=[]": USAGE,
    "-C nosuch": USAGE,
    "--config nosuch.toml": USAGE,
    "--config broken.toml": USAGE,
    "--config jobs=1": USAGE,
}
"""Options beside a job, and whose mistake they are: always the user's."""

FINDINGS_OF_CHECK = ("--tp 3", "--pp 7", "--ep 2", "--etp 2")
"""Layouts that the model cannot have. `check` goes on with other jobs, and reports them (CL306)."""

WHOLE_LINES = {
    # Formats and output paths.
    f"plan {TINY} -f nosuch": USAGE,
    f"check {TINY} --no-snapshot -f nosuch": USAGE,
    f"graph {TINY} -f nosuch": USAGE,
    f"graph {TINY} -o out.nosuch": OK,
    f"plan {TINY} -o folder": USAGE,
    f"plan {TINY} -o folder/": USAGE,
    f"plan {TINY} -o nosuch/plan.txt": USAGE,
    f"plan {TINY} -o file.txt/plan.txt": USAGE,
    f"plan {TINY} -o /dev/full": BUILD,
    f"plan {TINY} -o /dev/null": OK,
    f"plan {TINY} -o loop": USAGE,
    f"graph {TINY} -o folder": USAGE,
    f"graph {TINY} -o /dev/full": BUILD,
    f"check {TINY} --no-snapshot --write json=folder": USAGE,
    f"check {TINY} --no-snapshot --write json=nosuch/a.json": USAGE,
    f"check {TINY} --no-snapshot --write nosuch=a": USAGE,
    f"check {TINY} --no-snapshot --write json": USAGE,
    f"check {TINY} --no-snapshot --fail-on nosuch": USAGE,
    f"check {TINY} --no-snapshot --select CL999": USAGE,
    f"check {TINY} --no-snapshot --fail-on info": FOUND,
    f"check {TINY} --no-snapshot --target-modules linear_qq": FOUND,
    f"check {TINY} --no-snapshot --write html=-": USAGE,
    f"check {TINY} --no-snapshot --write html=a --write json=a": USAGE,
    f"verify {TINY} -f nosuch": USAGE,
    f"verify {TINY} --proof nosuch": USAGE,
    f"verify {TINY} --procs 0": USAGE,
    f"verify {TINY} --seed -1": USAGE,
    f"verify {TINY} --timeout 0": USAGE,
    f"verify {TINY} --weights nosuch": USAGE,
    f"verify {TINY} --weights folder": USAGE,
    f"verify {TINY} --device cuda": BUILD,
    f"verify {TINY} --device cuda --procs 2": BUILD,
    f"verify {TINY} --device meta": USAGE,
    # The configuration.
    "config": USAGE,
    "config nosuch": USAGE,
    "config show nosuch": USAGE,
    "config show jobs.nosuch": USAGE,
    "config validate": USAGE,
    "-C filled config validate": OK,
    "config validate --config broken.toml": USAGE,
    "--config broken.toml config validate": USAGE,
    "--config broken.toml config show": USAGE,
    "--config wrong.toml config validate": USAGE,
    "config schema -o folder": USAGE,
    "config schema -o nosuch/a.json": USAGE,
    "config schema -o /dev/full": BUILD,
    "config init nosuch": USAGE,
    "-C filled config init": USAGE,
    # Commands without a job.
    "info nosuch": USAGE,
    "info -f nosuch": USAGE,
    "info -o folder": USAGE,
    "explain": USAGE,
    "explain CL999": USAGE,
    "explain nosuch.key": USAGE,
    "nosuch": USAGE,
    "--nosuch": USAGE,
    # Snapshots.
    "snapshot": USAGE,
    "snapshot nosuch": USAGE,
    "snapshot list": OK,
    "snapshot list nosuch": USAGE,
    "snapshot list --snapshot-dir file.txt": OK,
    "snapshot show": USAGE,
    "snapshot show nosuch": USAGE,
    "snapshot show a/b/c": USAGE,
    "snapshot prune": OK,
    "snapshot prune nosuch": USAGE,
    "snapshot prune --snapshot-dir /nosuch": OK,
    "snapshot review": USAGE,
    "snapshot review nosuch": USAGE,
    "snapshot accept": USAGE,
    "snapshot accept nosuch": USAGE,
    "--config wrong.toml snapshot list": USAGE,
    # Two of a kind.
    "diff": USAGE,
    "diff nosuch llama3-8b": USAGE,
    "diff llama3-8b nosuch": USAGE,
    "diff file.txt llama3-8b": USAGE,
    f"diff {TINY} llama3-8b -f nosuch": USAGE,
    "diff llama3-8b llama3-8b --set model.num_layers=1": OK,
    "diff llama3-8b qwen2.5-0.5b --set model.num_layers=1": FOUND,
    # The interface, without a terminal.
    "tui": USAGE,
    "tui nosuch": USAGE,
    f"tui {TINY}": USAGE,
    "tui llama3-8b --screenshot a.nosuch": USAGE,
    "tui llama3-8b --screenshot nosuch/a.svg": USAGE,
    "tui llama3-8b --keys nosuch --screenshot a.svg": USAGE,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "broken.toml").write_text("[jobs.one\n")
    (tmp_path / "wrong.toml").write_text("[jobs.one]\nmodel = 5\n")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled/clora-inspect.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")
    return tmp_path


@pytest.mark.parametrize("command", JOB_COMMANDS)
def test_options_of_a_job(clora_inspect: CommandLine, command: str) -> None:
    wrong = {}
    for options, status in LAYOUTS.items():
        ran = clora_inspect(*command.split(), *TINY.split(), *options.split())
        right = FOUND if command.startswith("check") and options in FINDINGS_OF_CHECK else status
        if ran.status != right or not said_well(ran.err, ran.out):
            wrong[options] = ran
    assert wrong == {}


def test_every_other_command(clora_inspect: CommandLine, folder: Path) -> None:
    wrong = {}
    for line, status in WHOLE_LINES.items():
        os.chdir(folder)  # `-C` has left it
        ran = clora_inspect(*line.split())
        if ran.status != status or not (said_well(ran.err, ran.out) or status == OK):
            wrong[line] = ran
    assert wrong == {}
    assert sys.platform == "win32" or not os.path.lexists("a.svg")


def said_well(err: str, out: str) -> bool:
    return bool(err or out) and "internal error" not in err and "Traceback" not in err and len(err) < 3000
