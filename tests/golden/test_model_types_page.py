"""The page of every `model_type` is what the registries and the families say."""

from __future__ import annotations

from pathlib import Path

import model_types_page
import transformers
from test_transformers_counts import NOT_IN_TRANSFORMERS

from clora.families import families
from clora.families.multimodal import MULTIMODAL
from clora.families.multimodal.towers import PARAMETERS
from clora.families.unbuildable import UNBUILDABLE

PAGE = Path(__file__).parents[2] / "docs" / "model-types.md"


def test_the_page_is_generated() -> None:
    anew = "write it anew: python tests/golden/model_types_page.py > docs/model-types.md"
    assert PAGE.read_text() == model_types_page.render(), anew


def test_the_page_says_where_every_count_comes_from() -> None:
    assert model_types_page.NOT_PINNED.keys() == NOT_IN_TRANSFORMERS
    assert all(
        model_type in transformers.CONFIG_MAPPING or model_type.endswith("_text")
        for model_type in families()
        if model_type not in NOT_IN_TRANSFORMERS
    )


def test_a_model_type_has_one_fate() -> None:
    assert not families().keys() & UNBUILDABLE.keys()
    assert not MULTIMODAL.keys() & UNBUILDABLE.keys()
    assert not MULTIMODAL.keys() & families().keys()
    assert {known.text_type for known in MULTIMODAL.values()} <= families().keys()
    assert {known.tower_type for known in MULTIMODAL.values()} <= {*PARAMETERS, None}
