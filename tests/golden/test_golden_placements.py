"""Our plan is what the reference wraps, on 12 families in many layouts; each difference is listed
by row, with its reason.

`differences.json` lists them: the numbers are the rows of the table "What canonical LoRA must do"
in the design page.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import golden_files
import golden_models
import pytest

from clora.errors import CloraError, GeometryError, LayoutError, NotAdaptableError

if TYPE_CHECKING:
    from golden_files import Row
    from golden_models import Outcome

ROWS = golden_files.rows()
CONFIGS = golden_files.configs()
DIFFERENCES: dict[str, Any] = json.loads((golden_files.HERE / "differences.json").read_bytes())
MODELS: dict[str, list[Row]] = {}
for _row in ROWS:
    MODELS.setdefault(_row.name.rpartition("/")[0], []).append(_row)

ERRORS: dict[str, tuple[type[CloraError], tuple[str, ...]]] = {
    "embed": (NotAdaptableError, ("'word_embeddings'", "embedding.word_embeddings", "VocabParallelEmbedding")),
    "dim7": (GeometryError, ("dim = 7", "is not divisible by tp = ", "Use dim = ")),
    "dim20": (GeometryError, ("dim = 20", "is not divisible by tp = 8", "Use dim = 16 or 24")),
    "norm": (GeometryError, ("dim = 32", "moe_router_topk = 10", "Use dim = 30 or 40")),
    "unshared_norm": (GeometryError, ("dim = 32", "moe_router_topk = 10", "Use dim = 30 or 40")),
    "default": (LayoutError, ("ep = 8", "llama3-8b-gqa has none", "--ep")),
}
"""Variant -> our error where the reference failed and so must we."""


@pytest.mark.parametrize("name", MODELS)
def test_each_row_of_a_model_is_planned_as_recorded_or_as_listed(name: str) -> None:
    rows = MODELS[name]
    outcomes = golden_models.outcomes(rows, CONFIGS[rows[0].family])
    everything = next((o for r, o in zip(rows, outcomes, strict=True) if r.variant == "all_linears"), None)
    for row, outcome in zip(rows, outcomes, strict=True):
        if row.exception is not None:
            check_instead(row, outcome, everything)
            continue
        listed = {key: value for key, value in DIFFERENCES["rows"].get(row.name, {}).items() if key != "design"}
        assert golden_models.difference(row, outcome) == listed, row.name


def check_instead(row: Row, outcome: Outcome, everything: Outcome | None) -> None:
    """Check our result for a row in which the reference raised: the plan that the user meant, or an
    error that says what to write.
    """
    assert outcome.base_params == row.base_params, row.name
    if row.variant not in ("exclude", "exclude_wild"):
        error, words = ERRORS[row.variant]
        assert type(outcome.error) is error, row.name
        assert [word for word in words if word not in str(outcome.error)] == [], row.name
        return
    assert outcome.plan is not None, row.name
    assert everything is not None, row.name
    assert everything.plan is not None, row.name
    theirs = {path: placed for path, placed in golden_models.planned(everything.plan).items() if is_left(row, path)}
    assert golden_models.planned(outcome.plan) == theirs, row.name
    assert 0 < outcome.plan.wrapped_modules < everything.plan.wrapped_modules, row.name


def is_left(row: Row, path: str) -> bool:
    """Return whether the exclusions of the row's variant leave `path` adapted."""
    if row.variant == "exclude":
        return path.rsplit(".", maxsplit=1)[-1] not in ("linear_fc2", "output_layer")
    return ".layers.1." not in path and path != "output_layer"


def test_the_differences_are_listed_with_reasons() -> None:
    names = {row.name for row in ROWS if row.exception is None}
    assert DIFFERENCES["rows"].keys() <= names
    for name, listed in DIFFERENCES["rows"].items():
        assert listed["design"], name
        assert len(listed) > 1, f"{name} lists no difference"
        assert {str(number) for number in listed["design"]} <= DIFFERENCES["reasons"].keys(), name
    used = {str(number) for listed in DIFFERENCES["rows"].values() for number in listed["design"]}
    assert used == DIFFERENCES["reasons"].keys()


def test_the_rows_are_all_there() -> None:
    assert len(ROWS) == 524
    assert sum(row.exception is None for row in ROWS) == 465
    assert len({row.family for row in ROWS}) == 12


@pytest.mark.skipif(not golden_files.ORIGINAL.is_dir(), reason="the golden files as recorded are not beside this clone")
def test_the_copies_are_what_was_recorded() -> None:
    assert golden_files.copied_rows() == golden_files.original_rows()
    assert golden_files.copied_configs() == golden_files.original_configs()
    texts = {
        "placements.json": golden_files.compact_rows(golden_files.original_rows()),
        "configs.json": golden_files.compact_configs(golden_files.original_configs()),
    }
    for name, text in texts.items():
        assert (golden_files.HERE / name).read_text() == text
