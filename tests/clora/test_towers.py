"""Names tell the towers of modules that are not megatron-core's."""

from __future__ import annotations

import pytest
from torch import nn

from clora.plan import Tower, TowerKind
from clora.towers import kind_of_name, towers_of

NAMES = {
    "vision_tower": TowerKind.VISION,
    "visual": TowerKind.VISION,
    "vit": TowerKind.VISION,
    "audio_model": TowerKind.AUDIO,
    "speech_encoder": TowerKind.AUDIO,
    "mm_projector": TowerKind.PROJECTOR,
    "vision_projection": TowerKind.PROJECTOR,
    "audio_projector": TowerKind.PROJECTOR,
    "merger": TowerKind.PROJECTOR,
    "decoder": None,
    "linear_proj": None,
    "activity": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_tells_the_kind_of_a_tower(name: str) -> None:
    assert kind_of_name(name) is NAMES[name]


def _layers() -> nn.ModuleList:
    return nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(2))


def test_layers_that_no_tower_holds_are_those_of_a_language_model() -> None:
    model = nn.ModuleDict(
        {
            "audio_model": nn.ModuleDict({"encoder": nn.ModuleDict({"layers": _layers()})}),
            "audio_projector": nn.Linear(2, 2),
            "transformer": nn.ModuleDict({"h": _layers(), "audio_norm": nn.LayerNorm(2)}),
        }
    )
    assert {each.path: (each.kind, each.blocks) for each in towers_of(model)} == {
        "audio_model": (TowerKind.AUDIO, ("audio_model.encoder",)),
        "audio_projector": (TowerKind.PROJECTOR, ()),
        "": (TowerKind.LANGUAGE, ("transformer",)),
    }


def test_without_another_tower_a_projection_belongs_to_the_language_model() -> None:
    model = nn.ModuleDict({"layers": _layers(), "output_projection": nn.Linear(2, 2)})
    assert towers_of(model) == (Tower(path="", kind=TowerKind.LANGUAGE, blocks=("layers",)),)
