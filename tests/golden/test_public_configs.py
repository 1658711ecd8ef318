"""Public models: the base has as many parameters as transformers builds, or the config is refused
for a reason.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import golden_models
import pytest
import torch
import transformers
from hand_counts import BY_HAND

from clora.errors import ModelError
from clora.families.base.hf_config import HFConfig
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.definition import from_hf_config

PUBLIC: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("public_configs.json").read_text())
"""Name -> its config.json, the parameters of the language model, and those of the whole model.

`test_another_counter_has_the_recorded_parameters` counts them without this project: by the pinned
transformers on the meta device, by a newer one (`newer_counts.json`), or by hand
(`hand_counts.py`).
`whole` equals `parameters` where the note of the plan has no count of what is left out.
"""
NEWER: dict[str, int] = json.loads(Path(__file__).with_name("newer_counts.json").read_text())["published"]
ANOTHER_HEAD = "the model has another head"
SIDE_BY_SIDE = "attention and MLP read the same input side by side"
REFUSED = {
    "falcon-h1-7b": "every layer runs Mamba and attention side by side",
    "llama-seqcls": ANOTHER_HEAD,
    "skywork-reward-llama-8b": ANOTHER_HEAD,
    "qwen2.5-math-rm-72b": ANOTHER_HEAD,
    "step-3": "queries are compressed and normalised before their projection, and keys are not",
    "command-r": SIDE_BY_SIDE,
    "llama-3.2-11b-vision": "attends to the image in layers of its own",
    "jamba-v0.1": "its Mamba layers are of the first kind",
    "bert-base": "it is an encoder",
    "t5-base": "it has an encoder and a decoder",
    "nemotron-super-49b": "not supported. Build the model in a function",
    "apertus-8b": "the activation of its MLP has parameters of its own",
    "longcat-flash": "every layer has two attention blocks",
    "granite-4.0-h-tiny": "layers of Mamba cannot be built",
    "kimi-linear-48b": "most layers are Kimi Delta Attention",
}
COUNTED = [name for name in PUBLIC if name not in REFUSED]
AT_NIGHT = {
    *("deepseek-v3.2", "deepseek-v3.1", "kimi-k2", "qwen3-235b-a22b", "glm-4.6", "minimax-m2", "dots.llm1"),
    *("qwen3-coder-480b", "qwen3-30b-a3b-new", "kimi-vl-a3b", "glm-4.5v", "moonlight-16b", "yi-34b", "qwen3-32b"),
}
"""Large ones whose kinds of fields other models have as well."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly if name in AT_NIGHT else ()) for name in COUNTED],
)
def test_the_base_has_the_parameters_that_transformers_builds(name: str) -> None:
    public = PUBLIC[name]
    definition = from_hf_config(name, HFConfig(origin=name, values=public["config"]))
    assert golden_models.parameters(definition) == public["parameters"]
    left_out = public["whole"] - public["parameters"]
    assert (f"left out: {left_out:,} parameters" in " ".join(definition.notes)) == (left_out > 0)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in {*BY_HAND, *NEWER} else pytest.mark.nightly) for name in COUNTED]
)
def test_another_counter_has_the_recorded_parameters(name: str) -> None:
    if name in BY_HAND:
        theirs: int | None = BY_HAND[name](PUBLIC[name]["config"])
    else:
        theirs = NEWER[name] if name in NEWER else counted_by_transformers(PUBLIC[name]["config"])
    assert theirs == PUBLIC[name]["parameters"]


def counted_by_transformers(values: dict[str, Any]) -> int:
    """Count the language model of a config with the pinned transformers."""
    # A quantized model is counted as the model that was quantized.
    values = {key: value for key, value in values.items() if key not in ("quantization_config", "auto_map")}
    config = transformers.CONFIG_MAPPING[values.pop("model_type")](**json.loads(json.dumps(values)))
    several = transformers.AutoModelForImageTextToText
    auto = several if type(config) in several._model_mapping else transformers.AutoModelForCausalLM
    with torch.device("meta"), quiet():
        model = auto.from_config(config)
    language = getattr(getattr(model, "model", model), "language_model", model)
    # The output layer may be a part of the language model, or the same tensor as the embedding.
    counted = {*language.parameters(), model.get_output_embeddings().weight}
    return sum(parameter.numel() for parameter in counted)


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_a_model_that_cannot_be_built_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=re.escape(reason)):
        from_hf_config(name, HFConfig(origin=name, values=PUBLIC[name]["config"]))


def test_there_are_as_many_as_people_fine_tune() -> None:
    assert len(PUBLIC) >= 61
    assert len(PUBLIC) - len(REFUSED) >= 50
