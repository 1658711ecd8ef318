"""What a rank holds, compared with a file, without any model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from clora.plan import Tower, TowerKind
from clora_inspect.job.layout import Layout
from clora_inspect.job.towers import Towers
from clora_inspect.launch.comparison import compare_rank, held_lines
from clora_inspect.launch.expected import Expected, PlannedModule
from clora_inspect.launch.live import LiveModule, LiveRank
from clora_inspect.snapshot.record import (
    Base,
    PlacementLine,
    RunFacts,
    Snapshot,
    SnapshotLayout,
    SnapshotTotals,
    with_placements,
)

OLD = "mtp.layers.0.transformer_layer.mlp.linear_fc2"
NEW = "mtp.layers.0.mtp_model_layer.mlp.linear_fc2"


def _line(at: str) -> PlacementLine:
    return PlacementLine(at=at, a=(4, 48), b=(32, 4), shard=("in/tp", "out/tp"), by="linear_fc2")


def _expected(at: str = OLD, run: RunFacts | None = None, **fields: Any) -> Expected:
    empty = Snapshot(
        job="tiny",
        layout=SnapshotLayout(**Layout().sizes(), sp=False, stages=("0-1",)),
        base=Base(class_name="GPTModel", fingerprint="sha256:0", modules={}, params=10),
        lora={"alpha": 8.0},
        totals=SnapshotTotals(params=0, placements=0),
        run=run,
        placements=(),
    )
    return Expected(name="train.json", digest="0", snapshot=with_placements(empty, [_line(at)]), **fields)


def _live(at: str = OLD, **fields: Any) -> LiveRank:
    rank = LiveRank(
        layout=Layout(sp=False),
        stage=0,
        is_first_of_stage=True,
        class_name="GPTModel",
        layers={"": (0, 1)},
        layer_letters=None,
        towers=(),
        # `read_rank` keeps the oldest name of a module that a release has renamed.
        modules={OLD: LiveModule(class_name="RowParallelLinear", params=1536, layer=1)},
        model_params=10,
        lines=(_line(at),),
        settings={"alpha": {8.0: [at]}},
        config={"num_layers": 2},
        versions={"torch": "2.9.0"},
        not_in_effect=(),
        base=None,
    )
    return msgspec.structs.replace(rank, **fields)


VISION = Tower(path="vision_model", kind=TowerKind.VISION, blocks=("vision_model.decoder",))
LANGUAGE = Tower(path="language_model", kind=TowerKind.LANGUAGE, blocks=("language_model.decoder",))


def test_a_stage_with_a_vision_tower_alone_holds_no_layer_of_the_decoder() -> None:
    live = _live(layers={"vision_model": (0, 1)})
    assert live.decoder_layers(Towers((VISION, LANGUAGE))) == ()
    assert live.decoder_layers(Towers((VISION,))) == (0, 1)


def _told(expected: Expected, live: LiveRank) -> list[str]:
    return [each.text for each in compare_rank(expected, live)]


@pytest.mark.parametrize(("in_file", "live"), [(OLD, OLD), (OLD, NEW), (NEW, OLD), (NEW, NEW)])
def test_a_module_that_a_release_renamed_is_the_same_module(in_file: str, live: str) -> None:
    assert _told(_expected(in_file), _live(live)) == []
    assert held_lines(_expected(in_file), _live(live)) == [True]


RECORD = RunFacts(world_size=8, config={"num_layers": 2}, versions={"torch": "2.9.0"})
PLANNED = {OLD: PlannedModule(class_name="RowParallelLinear", params=1536)}


@pytest.mark.parametrize(
    ("expected", "live", "told"),
    [
        ({}, {"layout": Layout(cp=2, sp=False)}, ["cp 1 -> 2"]),
        ({}, {"layers": {"": (0, 1, 2)}}, ["layers of stage 0: 0-1 -> 0-2"]),
        ({}, {"class_name": "HybridModel"}, ["the model is a HybridModel, and a GPTModel is expected"]),
        ({}, {"settings": {"alpha": {16.0: [OLD]}}}, ["alpha 8 -> 16"]),
        ({}, {"config": {"fp8": "hybrid"}, "versions": {"torch": "1"}}, []),
        ({"run": RECORD}, {}, []),
        ({"run": RECORD}, {"config": {"num_layers": 2, "fp8": "hybrid"}}, ["fp8 at its default -> hybrid"]),
        (
            {"run": RECORD},
            {"config": {}},
            ["num_layers 2 was asked for and is not in effect: it is at its default"],
        ),
        ({"run": RECORD}, {"versions": {"torch": "2.10.0"}}, ["torch 2.9.0 -> 2.10.0"]),
        ({"planned_config": {"num_layers": 2}}, {"config": {"num_layers": 2, "fp8": "hybrid"}}, []),
        ({"planned_config": {"num_layers": 3}}, {}, ["num_layers 3 -> 2"]),
        ({"modules": (PLANNED,)}, {}, []),
        (
            {"modules": ({**PLANNED, "output_layer": PLANNED[OLD]},)},
            {},
            ["a RowParallelLinear was planned, and there is none"],
        ),
        (
            {"modules": ({OLD: PlannedModule(class_name="RowParallelLinear", params=1)},)},
            {},
            ["has 1,536 parameters on this rank, and 1 were planned"],
        ),
    ],
)
def test_each_fact_of_a_file_is_compared(expected: dict[str, Any], live: dict[str, Any], told: list[str]) -> None:
    assert _told(_expected(**expected), _live(**live)) == told
