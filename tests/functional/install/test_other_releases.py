"""The command line with another megatron-core in front of the installed one: an older one is
refused, a newer one is tried.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import own_process

SMALL = ("plan", "qwen2.5-0.5b", "--isolated", "--set", "model.num_layers=1")


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A folder `megatron/core` that is found first: put it on the path with its grandparent."""
    folder = tmp_path / "megatron" / "core"
    folder.mkdir(parents=True)
    return folder


def _installed() -> Path:
    spec = find_spec("megatron")
    assert spec is not None
    return next(Path(each) / "core" for each in spec.submodule_search_locations or () if (Path(each) / "core").is_dir())


def _path(core: Path) -> str:
    return os.pathsep.join((str(core.parents[1]), os.environ.get("PYTHONPATH", "")))


def _name(core: Path, release: str) -> None:
    major, minor, patch = release.split(".")
    (core / "package_info.py").write_text(f"MAJOR = {major}\nMINOR = {minor}\nPATCH = {patch}\nPRE_RELEASE = ''\n")


def test_an_older_release_is_refused_in_one_sentence(core: Path) -> None:
    _name(core, "0.15.3")
    ran = own_process(*SMALL, PYTHONPATH=_path(core))
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == (
        "error: megatron-core 0.15.3 is not supported by this release (supported: 0.16, 0.17, 0.18, 0.19, 0.20): "
        "before 0.16.0 the linears of grouped experts do not keep the group that splits their weights.\n"
    )


def test_a_newer_release_that_cannot_be_imported_is_refused_with_what_is_missing(core: Path) -> None:
    _name(core, "0.99.0")
    (core / "__init__.py").write_text("import a_package_that_nobody_has\n")
    ran = own_process(*SMALL, PYTHONPATH=_path(core))
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == (
        "error: megatron-core 0.99.0 is not supported by this release (supported: 0.16, 0.17, 0.18, 0.19, 0.20): "
        "ModuleNotFoundError: No module named 'a_package_that_nobody_has' (core/__init__.py:1).\n"
    )


def test_a_newer_release_that_works_goes_on_with_a_finding(core: Path) -> None:
    for child in _installed().iterdir():
        (core / child.name).symlink_to(child)
    (core / "package_info.py").unlink()
    text = (_installed() / "package_info.py").read_text()
    (core / "package_info.py").write_text(text.replace("MINOR = 16", "MINOR = 99"))
    ran = own_process("check", *SMALL[1:], "--no-cache", "-f", "json", PYTHONPATH=_path(core))
    assert ran.returncode in (0, 1), ran.stderr
    findings = json.loads(ran.stdout)["findings"]
    assert [each["message"] for each in findings if each["code"] == "CL802"] == [
        "the plan was made with megatron-core 0.99.1, and this release was tested with 0.16.* to 0.20.*"
    ]
