"""The options of every command, as a table. Scripts depend on them, so a change must be a decision
that is visible in review.
"""

from __future__ import annotations

import click
import pytest

from clora_inspect.cli.root import root
from clora_inspect.cli.table import COMMANDS

DISPLAY = "--ascii --color --quiet --traceback --verbose"
CONFIGURATION = "--config --isolated -C"
JOB = (
    "--alpha --cp --device --dim --ep --etp --exclude-modules --implementation --layout --lora --lora-as-canonical --model-class --pp --set --sp --target-modules --tp --via"
    " --vpp --world-size"
)
OUTPUT = "--format --output"
WORKLOAD = (
    "--gpu-memory-gib --imbalance --memory --micro-batch-size --num-microbatches --packed --recompute --seq-length"
)
RULES = "--extend-select --fail-on --ignore --select"

OPTIONS = {
    "plan": f"{CONFIGURATION} {DISPLAY} {JOB} {OUTPUT} {WORKLOAD} --columns --compare --expand --filter --only",
    "check": f"{CONFIGURATION} {DISPLAY} {JOB} {OUTPUT} {RULES} --add-allow --exit-zero --no-allow --no-cache --no-progress"
    " --checkpoint --no-code --no-snapshot --recorded --require-snapshot --snapshot-dir --statistics --verify --write",
    "verify": f"{CONFIGURATION} {DISPLAY} {JOB} {OUTPUT} --dtype --no-progress --procs --proof --seed --size"
    " --timeout --weights",
    "diff": f"{CONFIGURATION} {DISPLAY} {JOB} {OUTPUT}",
    "graph": f"{CONFIGURATION} {DISPLAY} {JOB} {OUTPUT} --depth --expand",
    "report": f"{CONFIGURATION} {DISPLAY} {JOB} {OUTPUT} {WORKLOAD} --no-progress --no-snapshot --verify",
    "explain": f"{CONFIGURATION} {DISPLAY} {JOB} --all",
    "tui": f"{CONFIGURATION} {DISPLAY} {JOB} {WORKLOAD} --keys --screenshot --size",
    "fingerprint": f"--alpha {DISPLAY} {OUTPUT}",
    "fit": f"{CONFIGURATION} {DISPLAY} {JOB} {OUTPUT} --global-batch-size --gpu-memory-gib --gpus --recompute --rows --seq-length",
    "gate": f"{DISPLAY} --record",
    "info": f"{DISPLAY} {OUTPUT} --completion",
}
SHORT = {
    "-f": "--format",
    "-o": "--output",
    "-q": "--quiet",
    "-v": "--verbose",
    "-V": "--version",
    "-C": "-C",
    "-h": "--help",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_command_has_these_options(name: str) -> None:
    assert sorted(_options(_command(name))) == sorted(OPTIONS[name].split())


@pytest.mark.parametrize("name", COMMANDS)
def test_short_flags_mean_the_same_everywhere(name: str) -> None:
    for parameter in _command(name).params:
        for flag in [flag for flag in parameter.opts if len(flag) == 2]:
            assert SHORT.get(flag) in parameter.opts, flag


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_an_environment_twin(name: str) -> None:
    for parameter in _command(name).params:
        if isinstance(parameter, click.Option):
            long = next((flag for flag in parameter.opts if flag.startswith("--")), parameter.name or "")
            assert parameter.envvar == "CLORA_INSPECT_" + long.removeprefix("--").replace("-", "_").upper()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name: str) -> None:
    command = _command(name)
    assert command.name == name
    assert command.help


def _command(name: str) -> click.Command:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    return command


def _options(command: click.Command) -> list[str]:
    return [
        next((flag for flag in parameter.opts if flag.startswith("--")), parameter.opts[0])
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]
