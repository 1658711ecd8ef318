"""Plans and snapshots are read as plans. A snapshot gives the plan that it was taken from, as far
as it remembers.
"""

from __future__ import annotations

import asyncio
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
