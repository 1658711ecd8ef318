"""The layers of a HybridModel that stands for an architecture: their letters and the ends of the
stages. Building it needs a release that has the class: tests/upstream.
"""

from __future__ import annotations

from typing import Any

import pytest

from clora.errors import LayoutError, ModelError
from clora.families.base.model_kind import ModelKind
from clora_inspect.job.layout import Layout
from clora_inspect.sources import architectures
from clora_inspect.sources.definition import load_definition
from clora_inspect.sources.hybrid_layers import written_pattern
from clora_inspect.sources.model_name import with_model_class

LAYERS = {"num_layers": 4}
PATTERNS: dict[str, tuple[str, dict[str, Any], dict[str, int], str]] = {
    "dense": ("llama3-8b", LAYERS, {}, "*-*-*-*-"),
    "experts in every layer": ("qwen3-30b-a3b", LAYERS, {}, "*E*E*E*E"),
    "latent attention, and one dense layer": ("deepseek-v2-lite", LAYERS, {}, "+-+E+E+E"),
    "an interval of experts": ("qwen3-30b-a3b", LAYERS | {"moe_layer_freq": 2}, {}, "*E*-*E*-"),
    "delta nets": ("qwen3-next-80b-a3b", LAYERS, {}, "GEGEGE*E"),
    "an interval of delta nets": ("qwen3-next-80b-a3b", LAYERS | {"linear_attention_freq": 2}, {}, "GE*EGE*E"),
    "stages": ("llama3-8b", LAYERS, {"pp": 2}, "*-*-|*-*-"),
    "chunks": ("llama3-8b", LAYERS, {"pp": 2, "vpp": 2}, "*-|*-|*-|*-"),
    "prediction layers": ("deepseek-v3", LAYERS | {"mtp_num_layers": 2}, {"pp": 2}, "+-+-|+-+E/+E/+E"),
    "a short last stage": (
        "llama3-8b",
        {"num_layers": 5, "num_layers_in_last_pipeline_stage": 1},
        {"pp": 3},
        "*-*-|*-*-|*-",
    ),
    "a short first stage of chunks": (
        "llama3-8b",
        {"num_layers": 6, "num_layers_in_first_pipeline_stage": 2},
        {"pp": 2, "vpp": 2},
        "*-|*-*-|*-|*-*-",
    ),
    "room for the embedding and the loss": (
        "llama3-8b",
        {
            "num_layers": 4,
            "account_for_embedding_in_pipeline_split": True,
            "account_for_loss_in_pipeline_split": True,
        },
        {"pp": 2},
        "*-*-|*-*-",
    ),
    "stages in letters": (
        "llama3-8b",
        {"num_layers": 4, "pipeline_model_parallel_layout": "Et|tttL"},
        {"pp": 2},
        "*-|*-*-*-",
    ),
}


@pytest.mark.parametrize("case", PATTERNS)
def test_the_letters_are_those_of_the_layers_taken_apart(case: str) -> None:
    name, fields, axes, expected = PATTERNS[case]
    layout = Layout(**axes)
    definition = load_definition(f"hybrid:{name}").override(fields)
    definition.check(layout)
    split = {**definition.config, **definition.split(layout).fields}
    assert definition.kind is ModelKind.HYBRID
    assert definition.built_layers == 2 * fields["num_layers"]
    assert written_pattern(definition.config, split, layout) == expected


def test_the_usual_uneven_split_of_an_architecture_is_kept() -> None:
    definition, layout = load_definition("hybrid:deepseek-v3"), Layout(pp=16, ep=64, etp=1)
    split = {**definition.config, **definition.split(layout).fields}
    stages = written_pattern(definition.config, split, layout).split("|")
    assert [len(stage) // 2 for stage in stages] == [4] * 15 + [1]


@pytest.mark.parametrize("name", ["gemma2-9b", "nemotron-h-8b"])
def test_a_model_that_is_no_plain_gpt_model_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"Leave out --model-class hybrid\."):
        load_definition(f"hybrid:{name}")


def test_a_function_decides_its_class_itself() -> None:
    with pytest.raises(ModelError, match="decides the class of its model itself"):
        load_definition("hybrid:recipes.py:build")


def test_the_layers_are_counted_as_those_of_the_architecture() -> None:
    with pytest.raises(LayoutError, match="hybrid:llama3-8b has num_layers = 32, which does not divide over pp = 5"):
        load_definition("hybrid:llama3-8b").check(Layout(pp=5))


def test_the_class_goes_into_the_name_and_out_of_it() -> None:
    for name in architectures.names():
        assert with_model_class(name, None) == with_model_class(f"hybrid:{name}", "gpt") == name
        assert with_model_class(with_model_class(name, "hybrid"), "hybrid") == f"hybrid:{name}"
