"""The configuration file that is read, the order of precedence of sources, and the source that is
reported for a value.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clora_inspect.config.errors import ConfigError
from clora_inspect.config.jobs import configured_jobs
from clora_inspect.config.load import load
from clora_inspect.job.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

PYPROJECT = """\
[project]
name = "recipes"

[tool.clora-inspect]
snapshots = "kept"

[tool.clora-inspect.lora.main]
dim = 8
target_modules = ["linear_q",
                  "linear_v"]

[tool.clora-inspect.jobs.small]
model = "qwen3-0.6b"
lora = "main"
layouts = { train = { tp = 2 }, serve = {} }

[tool.clora-inspect.check]
fail-on = "warning"
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    return tmp_path


def test_the_nearest_file_is_found_from_below(repository: Path) -> None:
    configuration = load(repository / "deep" / "er", environ={})
    assert configuration.root == repository
    assert configuration.snapshots == repository / "kept"
    assert configuration.settings.check.fail_on is Severity.WARNING


def test_a_file_of_its_own_goes_first_and_a_pyproject_without_the_table_is_passed_by(repository: Path) -> None:
    (repository / "deep" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert load(repository / "deep", environ={}).settings.snapshots == "kept"
    (repository / "clora-inspect.toml").write_text("snapshots = 'own'\n")
    configuration = load(repository / "deep", environ={})
    assert configuration.settings.snapshots == "own"
    assert configuration.origin(("snapshots",)) == "clora-inspect.toml:1"


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("clora-inspect.toml", lambda path: path.mkdir(), "it is a folder, not a regular file"),
        ("clora-inspect.toml", lambda path: path.symlink_to("moved.toml"), "No such file or directory"),
        ("pyproject.toml", os.mkfifo, "it is a pipe, not a regular file"),
        ("pyproject.toml", lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_passed_by(
    name: str, make: Callable[[Path], object], said: str, repository: Path
) -> None:
    """The configuration of a folder above would check other jobs than the one that is named."""
    make(repository / "deep" / name)
    with pytest.raises(ConfigError, match=said):
        load(repository / "deep" / "er", environ={})
    assert load(repository / "deep" / "er", isolated=True).root == repository / "deep" / "er"


def test_isolated_reads_no_file_and_no_variable(repository: Path) -> None:
    configuration = load(repository, isolated=True, environ={"CLORA_INSPECT_FAIL_ON": "info"})
    assert configuration.settings.jobs == {}
    assert configuration.settings.check.fail_on is Severity.ERROR
    assert configuration.document.path is None


def test_command_line_beats_config_option_beats_environment_beats_file(repository: Path) -> None:
    key = ("check", "fail-on")
    environ = {"CLORA_INSPECT_FAIL_ON": "info"}
    fail_on = {}
    origins = {}
    for name, arguments in {
        "file": {"environ": {}},
        "environment": {"environ": environ},
        "--config": {"environ": environ, "config": ["check.fail-on=error"]},
        "option": {"environ": environ, "config": ["check.fail-on=error"], "options": {key: ("--fail-on", "warning")}},
    }.items():
        configuration = load(repository, **arguments)  # type: ignore[arg-type]
        fail_on[name], origins[name] = str(configuration.settings.check.fail_on), configuration.origin(key)
    assert fail_on == {"file": "warning", "environment": "info", "--config": "error", "option": "warning"}
    assert origins == {
        "file": "pyproject.toml:18",
        "environment": "CLORA_INSPECT_FAIL_ON",
        "--config": "--config",
        "option": "--fail-on",
    }
    assert load(repository, environ={}).origin(("check", "ignore")) == "default"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("CLORA_INSPECT_SELECT", "CL1, CL2", ["CL1", "CL2"]),
        ("CLORA_INSPECT_REQUIRE_SNAPSHOT", "0", False),
        ("CLORA_INSPECT_CACHE", "on", True),
        ("CLORA_INSPECT_VERIFY", "tiny", "tiny"),
        ("CLORA_INSPECT_SELECT", "", ["CL"]),
    ],
)
def test_variables_are_read_as_what_their_key_is(tmp_path: Path, name: str, text: str, value: object) -> None:
    check = load(tmp_path, environ={name: text}).settings.check
    assert getattr(check, name.removeprefix("CLORA_INSPECT_").lower()) == value


def test_a_variable_that_is_no_switch_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CLORA_INSPECT_CACHE = 'maybe'"):
        load(tmp_path, environ={"CLORA_INSPECT_CACHE": "maybe"})


def test_assignments_make_tables_and_name_themselves_when_wrong(repository: Path) -> None:
    configuration = load(
        repository, environ={}, config=["jobs.small.set.model.num_layers=4", 'jobs.small.serve="vllm"']
    )
    assert configuration.settings.jobs["small"].set.model == {"num_layers": 4}
    assert configuration.settings.jobs["small"].serve == "vllm"
    with pytest.raises(ConfigError, match=r"^--config check.fail-on: .*error or warning or info"):
        load(repository, environ={}, config=["check.fail-on=loud"])
    with pytest.raises(ConfigError, match="model is not a table"):
        load(repository, environ={}, config=["jobs.small.model.x=1"])
    with pytest.raises(ConfigError, match="single elements"):
        load(repository, environ={}, config=["check.select[0]=1"])


def test_a_file_can_be_named(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "deep" / "other.toml"
    other.write_text("snapshots = 'elsewhere'\n")
    configuration = load(repository, config=["deep/other.toml"], environ={})
    assert configuration.snapshots == tmp_path / "deep" / "elsewhere"
    with pytest.raises(ConfigError, match=r"missing\.toml cannot be read: No such file"):
        load(repository, config=["missing.toml"], environ={})


def test_jobs_have_a_layout_each_and_know_their_places(repository: Path) -> None:
    train, serve = configured_jobs(load(repository, environ={}))
    assert (train.label, serve.label) == ("small train", "small serve")
    assert (train.job.layout.tp, serve.job.layout.tp) == (2, 1)
    assert train.job.lora.dim == 8
    assert train.job.targets_written
    places = {
        key: (place.line, place.column, place.length)
        for key in (
            "lora.target_modules[1]",
            "lora.dim",
            "layout.tp",
            "layout.pp",
            "model",
            "model.num_layers",
            "serve",
        )
        if (place := train.location_of(key))
    }
    assert places == {
        "lora.target_modules[1]": (10, 19, 10),
        "lora.dim": (8, 7, 1),
        "layout.tp": (15, 28, 1),
        "layout.pp": (15, 13, 5),
        "model": (13, 9, 12),
        "model.num_layers": (12, 26, 5),
        "serve": (12, 26, 5),
    }
    place = train.location_of("lora.target_modules[1]")
    assert place is not None
    assert (place.key, place.text) == (
        "tool.clora-inspect.lora.main.target_modules[1]",
        '                  "linear_v"]',
    )


def test_what_an_option_set_stands_in_no_file(repository: Path) -> None:
    train, _ = configured_jobs(load(repository, environ={}, config=["lora.main.dim=4"]))
    assert train.job.lora.dim == 4
    assert train.location_of("lora.dim") is None
    assert train.location_of("lora.target_modules[0]") is not None
