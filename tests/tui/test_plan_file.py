"""Plans and snapshots are read as plans. A snapshot gives the plan that it was taken from, as far
as it remembers.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from driving import opened, press

from clora.errors import CloraError
from clora_inspect.snapshot.record import encode, take
from clora_inspect.tui.job.plan_file import plan_of_snapshot, read_plan

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan


@pytest.mark.parametrize("name", ["typo", "mixtral", "deepseek"])
def test_a_snapshot_remembers_the_adapters_of_every_rank(plans: dict[str, JobPlan], name: str) -> None:
    plan = plans[name]
    remembered = plan_of_snapshot(take(plan, plan.model_source))
    assert remembered.totals.placements == plan.totals.placements
    assert remembered.totals.trainable_params == plan.totals.trainable_params
    for then, now in zip(remembered.rank_classes, plan.rank_classes, strict=True):
        assert then.members == now.members
        assert then.trainable_params == now.trainable_params
        assert sorted(
            (p.global_layer or 0, p.part or "", p.a_shape, p.b_shape, p.a_axes, p.alpha) for p in then.placements
        ) == sorted(
            (p.global_layer or 0, p.part or "", p.a_shape, p.b_shape, p.a_axes, p.alpha) for p in now.placements
        )


def test_a_snapshot_opens_and_its_model_cannot_be_planned_again(plans: dict[str, JobPlan], tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(encode(take(plans["typo"], "llama3-8b")))

    async def case() -> None:
        async with opened(path) as (app, pilot):
            assert app.scene is not None
            assert app.scene.name == "llama3-8b"
            await press(pilot, "slash", "text:linear_fc1", "enter")
            assert "chosen by" in app.main.details.pane.text
            await press(pilot, "2", "3", "4", "5", "1", "right_square_bracket", "w", "v")
            assert app.screen is app.main

    asyncio.run(case())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
def test_the_source_pane_reads_only_files_of_the_repository(
    plan_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines that it shows are named by locations, and a saved plan may come from anybody."""
    repository = tmp_path / "repository"
    (repository / ".git").mkdir(parents=True)
    (repository / "service").mkdir()
    (repository / "pyproject.toml").write_text("one\ntwo\n")
    (tmp_path / "secret").write_text("secret\n")
    (repository / "link").symlink_to(tmp_path / "secret")
    (repository / "loop").symlink_to("loop")
    os.mkfifo(repository / "pipe")
    monkeypatch.chdir(repository / "service")

    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, _):
            assert app.scene is not None
            read = app.scene.file_lines
            assert read("../pyproject.toml", 2, 9) == ["two"]
            assert read(str(repository / "pyproject.toml"), 1, 1) == ["one"]
            for name in (
                "../../secret",
                str(tmp_path / "secret"),
                "../link",
                "../loop",
                "../pipe",
                "/dev/zero",
                "a\0b",
            ):
                assert read(name, 1, 9) == [], name

    asyncio.run(case())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"schema": 99}', b'{"schema": 1, "placements": 3}', b"\xff\xfe"]
)
def test_what_is_neither_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(CloraError):
        read_plan(path)


@pytest.mark.parametrize("more", [b"", b', "versions": {}, "rank_classes": "another shape"'])
def test_a_plan_of_a_newer_version_says_so_whatever_else_it_holds(
    plan_files: dict[str, Path], more: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    data = plan_files["typo"].read_bytes().replace(b'"schema": 1', b'"schema": 99' + more, 1)
    path.write_bytes(data)
    with pytest.raises(CloraError, match=r"x\.json is a plan of schema 99, and this version reads up to 1"):
        read_plan(path)
