"""Settings of recomputation that run nothing again prove nothing, and the report says so."""

from __future__ import annotations

import msgspec
import pytest
from verify_models import MODELS, proved, task_of

pytestmark = pytest.mark.usefixtures("one_cpu_rank")


def test_a_setting_without_effect_is_named_beside_those_that_were_compared() -> None:
    """The job recomputes experts, and has none."""
    own = {"recompute_granularity": "selective", "recompute_modules": ["moe"]}
    answer = proved("recompute", msgspec.structs.replace(task_of("short"), recompute=own))
    assert answer.status == "passed", answer
    assert answer.detail == (
        "the same gradients under full recomputation, selective recomputation of mlp; "
        "the job's own recomputation runs no module of this model again"
    )


def test_a_setting_that_repeats_another_is_compared_once() -> None:
    own = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    answer = proved("recompute", msgspec.structs.replace(task_of("short"), recompute=own))
    assert answer.detail == "the same gradients under full recomputation, selective recomputation of mlp"


def test_a_model_that_recomputes_nothing_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mamba layers alone: there is no MLP to recompute, and megatron-core has no full recomputation
    of a Mamba model.
    """
    name, fields = MODELS["hybrid"]
    monkeypatch.setitem(MODELS, "Mamba alone", (name, {**fields, "hybrid_override_pattern": "MM"}))
    answer = proved("recompute", task_of("Mamba alone", target_modules=["in_proj", "out_proj"]))
    assert answer.status == "skipped", answer
    assert answer.detail == (
        "nothing is recomputed in this model: under selective recomputation of mlp megatron-core runs no module "
        "again, so the run would be compared with itself"
    )
