"""What a model is called that is named by a path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from clora_inspect.config.jobs import ad_hoc_job
from clora_inspect.config.template import job_name
from clora_inspect.job.job import Job
from clora_inspect.sources.model_name import in_home, shown_name

if TYPE_CHECKING:
    from pathlib import Path

SHOWN = {
    ".": "toy",
    "./": "toy",
    "./.": "toy",
    "sub/..": "toy",
    "../toy": "toy",
    "../toy/": "toy",
    "../link": "toy",
    "../link/": "toy",
    "config.json": "toy",
    "./config.json": "toy",
    "../link/config.json": "toy",
    "..": "models",
    "sub": "sub",
    "sub/": "sub",
    "sub/deeper": "sub/deeper",
    "sub/deeper/config.json": "sub/deeper/config.json",
    "bridge:.": "toy",
    # What is no folder is called as it is written.
    "/": "/",
    "llama3-8b": "llama3-8b",
    "other.json": "other.json",
    "missing/": "missing/",
    "./build.py:build": "./build.py:build",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy = tmp_path / "models" / "toy"
    (toy / "sub" / "deeper").mkdir(parents=True)
    for each in (toy, toy / "sub" / "deeper"):
        (each / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (toy / "other.json").write_text("{}")
    (tmp_path / "models" / "link").symlink_to(toy)
    monkeypatch.chdir(toy)
    return toy


@pytest.mark.parametrize("written", SHOWN)
def test_a_folder_has_its_real_name_where_the_path_does_not_say_it(folder: Path, written: str) -> None:
    assert shown_name(written) == SHOWN[written]


def test_names_of_jobs_and_of_their_snapshots_follow(folder: Path) -> None:
    assert [ad_hoc_job(Job(model=model)).name for model in (".", "../link/", "sub/deeper")] == [
        "toy",
        "toy",
        "sub-deeper",
    ]
    assert [job_name(model) for model in (".", "config.json", "..")] == ["toy", "toy", "models"]


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert in_home("~/toy") == f"{tmp_path}/toy"
    assert in_home("~nobody-is-called-so/toy") == "~nobody-is-called-so/toy"
    assert in_home("toy~") == "toy~"
