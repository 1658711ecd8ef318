"""Pages of `clora-inspect report` and `check --write html=FILE`, made once for all tests here."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from proved_models import MODELS

from clora_inspect.cli import main

# Modules beside this file are imported by their names.
sys.path.insert(0, str(Path(__file__).parent))

from written_pages import ProvedPages, write_page

JOBS = """\
[check]
require-snapshot = false

[lora.all]
dim = DIM
target_modules = ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc2"]

[jobs.steady]
model = "models.py:steady"
lora = "all"

[jobs.noisy]
model = "models.py:noisy"
lora = "all"
layouts = { one = {}, two = { tp = 2 } }
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of this folder on one worker, which makes the pages and starts Chromium."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("page"))


@pytest.fixture(scope="session")
def small_page(saved_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small dense model."""
    return write_page("report", str(saved_plan), path=tmp_path_factory.mktemp("small") / "report.html").path


@pytest.fixture(scope="session")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a job on 1,024 ranks, with findings."""
    layout = ("--tp", "8", "--pp", "16", "--ep", "64", "--etp", "1")
    path = tmp_path_factory.mktemp("large") / "report.html"
    return write_page("report", "deepseek-v3", "--isolated", *layout, path=path).path


@pytest.fixture(scope="session")
def proved_pages(tmp_path_factory: pytest.TempPathFactory) -> ProvedPages:
    """The pages of jobs with drift and proofs."""
    folder = tmp_path_factory.mktemp("proved")
    (folder / "models.py").write_text(MODELS)
    configuration = folder / "clora-inspect.toml"
    with contextlib.chdir(folder):
        configuration.write_text(JOBS.replace("DIM", "8"))
        assert main(["snapshot", "accept", "-q"]) == 0
        configuration.write_text(JOBS.replace("DIM", "16"))
        proved = ("--verify", "tiny")
        return ProvedPages(
            steady=write_page("report", "steady", *proved, path=folder / "steady.html"),
            noisy=write_page("report", "noisy", *proved, path=folder / "noisy.html"),
            check=write_page("check", "noisy", *proved, path=folder / "check.html"),
        )
