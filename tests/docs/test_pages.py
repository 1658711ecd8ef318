"""Each page of the documentation is a story: its commands run, and print what it shows.

UPDATE_GOLDENS=1 pytest tests/docs/test_pages.py -k cost     write the output into docs/cost.md
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pages import PAGES, ROOT, TOLD_WITH_THE_INSTALLED_COMMANDS, story_of
from story import MARKS
from telling import Telling

if TYPE_CHECKING:
    from collections.abc import Callable

# One worker of pytest-xdist has all pages, because each worker has a server of its own to warm up.
pytestmark = pytest.mark.xdist_group("docs")

SHOW_MEGATRON_BRIDGE = ("docs/how-it-works/proofs.md",)
"""Pages whose commands marked upstream are about release 0.3.1 of Megatron-Bridge."""

SLOW_PAGES = [page for page in PAGES if "<!-- test: slow -->" in (ROOT / page).read_text(encoding="utf-8")]


def tell(page: str, folder: Path, programs: Path | None, *, slow: bool, upstream: bool = False) -> None:
    telling = Telling(story_of(page), slow=slow, upstream=upstream)
    telling.tell(folder, programs)
    if telling.faults:
        pytest.fail("\n\n".join(telling.faults), pytrace=False)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_true(page: str, tmp_path: Path, programs: Path) -> None:
    tell(page, tmp_path, programs, slow=False)


@pytest.mark.nightly
@pytest.mark.parametrize("page", SLOW_PAGES)
def test_a_page_is_true_with_its_slow_commands(page: str, tmp_path: Path, programs: Path) -> None:
    tell(page, tmp_path, programs, slow=True)


@pytest.mark.nightly
@pytest.mark.parametrize("page", [page for page in TOLD_WITH_THE_INSTALLED_COMMANDS if page in PAGES])
def test_a_page_is_true_with_the_installed_commands(page: str, tmp_path: Path) -> None:
    tell(page, tmp_path, None, slow=True)


@pytest.mark.nightly
@pytest.mark.parametrize("page", SHOW_MEGATRON_BRIDGE)
def test_a_page_is_true_of_megatron_bridge(
    page: str, tmp_path: Path, wheel_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(wheel_of(release)) for release in ("megatron-bridge==0.3.1", "omegaconf==2.4.0")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]))
    tell(page, tmp_path, None, slow=True, upstream=True)


def test_most_commands_run() -> None:
    marks = [command.mark for page in PAGES for command in story_of(page).commands]
    counts = {mark: marks.count(mark) for mark in ("", *MARKS)}
    assert counts[""] + counts["slow"] > sum(counts.values()) / 2, counts
