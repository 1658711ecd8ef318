"""Every family against transformers: as many parameters, for the usual config and for variations
of it, and the same model for a config that says nothing.
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
from family_configs import BASE, NEWER, VARIATIONS, small_config
from transformers.models.glm4v_moe.configuration_glm4v_moe import Glm4vMoeTextConfig
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeTextConfig

from clora.errors import ModelError
from clora.families import families
from clora.families.base.hf_config import HFConfig
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.definition import from_hf_config

IN_EVERY_RUN = ("usual", "tied", "attention bias")
NOT_IN_TRANSFORMERS = {*NEWER, "bailing_moe", "bailing_moe_v2", "kimi_k2", "mimo"}
"""Families that the pinned transformers lacks; see docs/model-types.md for where their counts come
from.
"""
NO_MODEL_OF_ITS_OWN = {
    *("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "qwen3_omni_moe_text", "qwen3_vl_text"),
    *("qwen3_vl_moe_text", "glm4v_text", "Glm4vMoe_text"),
}
"""Text models that transformers builds as a part of the whole only."""

KNOWN = [model_type for model_type in families() if model_type not in NOT_IN_TRANSFORMERS]
CASES = [
    pytest.param(model_type, name, marks=() if name in IN_EVERY_RUN else pytest.mark.nightly)
    for model_type in KNOWN
    if model_type not in NO_MODEL_OF_ITS_OWN
    for name in VARIATIONS
]


def in_transformers(values: dict[str, Any], auto: Any = transformers.AutoModelForCausalLM) -> int | None:
    """The parameters of the model that transformers builds; None if it refuses the config."""
    values = json.loads(json.dumps(values))
    try:
        config = transformers.CONFIG_MAPPING[values.pop("model_type")](**values)
        with torch.device("meta"), quiet():
            return sum(parameter.numel() for parameter in auto.from_config(config).parameters())
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, AttributeError):
        return None


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_the_parameters_are_those_of_transformers_or_the_config_is_refused(model_type: str, name: str) -> None:
    values = {**small_config(model_type), **VARIATIONS[name]}
    theirs = in_transformers(values)
    if theirs is None:
        pytest.skip("transformers refuses the config")
    refusal, ours = built(values)
    # A refusal names a field and its value, and says why.
    assert ours == theirs or re.match(r"c\.json: \w+ = .+: \w.+\.$", refusal), refusal
    assert ours == theirs or name != "usual", refusal


ALIASES = [
    (model_type, alias, field)
    for model_type in KNOWN
    if model_type not in NO_MODEL_OF_ITS_OWN
    for alias, field in (transformers.CONFIG_MAPPING[model_type].attribute_map or {}).items()
    if type(small_config(model_type).get(field)) is int
]
"""Model type, the second name that its config class has for a field, and the field."""


@pytest.mark.parametrize(("model_type", "alias", "field"), ALIASES)
@pytest.mark.parametrize("both", [False, True])
def test_a_field_is_read_by_its_second_name(model_type: str, alias: str, field: str, both: bool) -> None:
    values = small_config(model_type)
    values[alias] = 2 * (values[field] if both else values.pop(field))
    refusal, ours = built(values)
    assert ours == in_transformers(values), refusal


def test_a_width_that_is_written_twice_must_be_the_same() -> None:
    values = small_config("deepseek_v3")
    width = values["qk_nope_head_dim"] + values["qk_rope_head_dim"]
    assert built({**values, "qk_head_dim": width})[1] == in_transformers(values)
    assert built({**values, "qk_head_dim": 2 * width})[0] == (
        f"c.json: qk_head_dim = {2 * width}: qk_nope_head_dim + qk_rope_head_dim is {width}, and they must agree."
    )
    assert built({**values, "qk_rope_head_dim": 5})[0].startswith("c.json: qk_rope_head_dim = 5: must be even")


NOT_TIED = {("nemotron_h", "tied")}
"""transformers 5 ignores `tie_word_embeddings` there, which the code published with the weights
honours.
"""
NEWER_COUNTS: dict[str, dict[str, int | None]] = json.loads(Path(__file__).with_name("newer_counts.json").read_text())


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        pytest.param(model_type, name, marks=() if name == "usual" else pytest.mark.nightly)
        for model_type in NEWER
        for name in VARIATIONS
        if NEWER_COUNTS[model_type][name] is not None and (model_type, name) not in NOT_TIED
    ],
)
def test_the_parameters_are_those_that_a_newer_transformers_has_counted(model_type: str, name: str) -> None:
    refusal, ours = built({**small_config(model_type), **VARIATIONS[name]})
    theirs = NEWER_COUNTS[model_type][name]
    assert ours == theirs or re.match(r"c\.json: \w+ = .+: \w.+\.$", refusal), (refusal, ours, theirs)
    assert ours == theirs or name != "usual", refusal


@pytest.mark.parametrize("name", ["usual", "tied", "one key head", "wide heads"])
def test_mimo_is_qwen2_with_the_prediction_layers_of_its_published_class(name: str) -> None:
    layers, predicting, width = BASE["num_hidden_layers"], 2, BASE["hidden_size"]
    values = {**small_config("mimo"), **VARIATIONS[name], "num_nextn_predict_layers": predicting}
    # A prediction layer is a layer of Qwen2, a linear that joins two vectors, and three norms.
    deeper = in_transformers({**values, "model_type": "qwen2", "num_hidden_layers": layers + predicting})
    assert deeper is not None
    assert built(values)[1] == deeper + predicting * (2 * width * width + 3 * width)


@pytest.mark.parametrize("name", ["usual", "tied"])
def test_kimi_k2_is_deepseek_v3(name: str) -> None:
    values = {**small_config("kimi_k2"), **VARIATIONS[name]}
    assert built(values)[1] == in_transformers({**values, "model_type": "deepseek_v3"})


LING = {"num_shared_experts": 1, "first_k_dense_replace": 1, "attention_bias": False}


@pytest.mark.parametrize("name", ["usual", "tied", "one key head", "wide heads", "some dense layers"])
@pytest.mark.parametrize("model_type", ["bailing_moe", "bailing_moe_v2"])
def test_ling_has_the_layers_of_dots1(model_type: str, name: str) -> None:
    values = {**small_config(model_type), **LING, **VARIATIONS[name], "architectures": ["BailingMoeV2ForCausalLM"]}
    # dots.llm1 has other names for the numbers of experts.
    same = {**values, "model_type": "dots1", "n_shared_experts": 1, "architectures": None}
    assert built(values)[1] == in_transformers(same)


@pytest.mark.parametrize("norms", [True, False])
def test_ling_of_the_first_version(norms: bool) -> None:
    values = {**small_config("bailing_moe"), **LING, "use_bias": False, "use_qk_norm": norms}
    same = {**values, "model_type": "dots1", "n_shared_experts": 1}
    theirs = in_transformers(same)
    assert theirs is not None
    without = 0 if norms else BASE["num_hidden_layers"] * 2 * BASE["head_dim"]
    assert built({**values, "architectures": ["BailingMoeForCausalLM"]})[1] == theirs - without


def built(values: dict[str, Any]) -> tuple[str, int | None]:
    """The message of our refusal, or the parameters of our model."""
    try:
        definition = from_hf_config("c", HFConfig(origin="c.json", values=values))
    except ModelError as error:
        return str(error), None
    return "", golden_models.parameters(definition)


PARTS = {
    "Glm4vMoe_text": Glm4vMoeTextConfig,
    "qwen2_5_omni_text": Qwen2_5OmniTextConfig,
    "qwen3_omni_moe_text": Qwen3OmniMoeTextConfig,
}
"""Config classes of text models that transformers makes as a part of the whole only."""
SAYS_NOTHING = {
    "dots1": "n_routed_experts is missing",
    "deepseek_v2": "num_experts_per_tok is missing",
    "glm4_moe": "must be a multiple of num_attention_heads",
    "granitemoehybrid": "layers of Mamba cannot be built",
    "hunyuan_v1_moe": "the one expert of a token always has weight 1",
    "Glm4vMoe_text": "must be a multiple of num_attention_heads",
    "qwen3_omni_moe_text": "must be a multiple of num_attention_heads",
}
"""Families whose config class has defaults of which no model can be built."""


@pytest.mark.parametrize("model_type", KNOWN)
def test_a_config_that_says_nothing_is_read_with_the_defaults_of_transformers(model_type: str) -> None:
    convert = families()[model_type].convert
    config_class = PARTS.get(model_type) or transformers.CONFIG_MAPPING[model_type]
    written = {**config_class().to_dict(), "model_type": model_type}
    empty = HFConfig(origin="c.json", values={"model_type": model_type})
    if model_type in SAYS_NOTHING:
        with pytest.raises(ModelError, match=SAYS_NOTHING[model_type]):
            convert(empty)
        return
    ours, theirs = convert(empty), convert(HFConfig(origin="c.json", values=written))
    assert (ours.config, ours.model) == (theirs.config, theirs.model)


TEXT = {**{field: BASE[field] for field in list(BASE)[:7]}, "num_hidden_layers": 1, "pad_token_id": 0}
VIT = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VIT = {"depth": 2, "hidden_size": 32, "intermediate_size": 40, "out_hidden_size": 64, "num_heads": 4}
QWEN3_VIT = {**QWEN_VIT, "patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
GLM_VIT = {**QWEN_VIT, "image_size": 28}
GLM_MOE = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "pad_token_id": 1,
}
AUDIO: dict[str, dict[str, Any]] = {
    "qwen2_audio": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "audio_config": {"d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 40, "encoder_attention_heads": 4},
    },
    "voxtral": {
        "text_config": {"model_type": "llama", **TEXT},
        "audio_config": {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    },
}
MROPE = {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
WHOLE: dict[str, dict[str, Any]] = {
    "llava": {"text_config": {"model_type": "llama", **TEXT}, "vision_config": VIT},
    "llava, two features": {
        "text_config": {"model_type": "mistral", **TEXT},
        "vision_config": {"model_type": "siglip_vision_model", **VIT},
        "vision_feature_layer": [-1, -2],
        "multimodal_projector_bias": False,
    },
    "gemma3": {"text_config": TEXT, "vision_config": {**VIT, "vision_use_head": False}},
    "mistral3": {"text_config": {"model_type": "mistral", **TEXT}, "vision_config": {"model_type": "pixtral", **VIT}},
    "qwen2_vl": {**TEXT, "vision_config": {**QWEN_VIT, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 4}},
    "qwen2_5_vl": {**TEXT, "tie_word_embeddings": True, "vision_config": QWEN_VIT},
    "qwen3_vl": {"text_config": {**TEXT, **MROPE}, "vision_config": QWEN3_VIT},
    "qwen3_vl_moe": {
        "text_config": {**BASE, **TEXT, **MROPE},
        "vision_config": {**QWEN3_VIT, "deepstack_visual_indexes": [0, 1]},
    },
    "llava_next": {"text_config": {"model_type": "mistral", **TEXT}, "vision_config": VIT},
    "llava_onevision": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {"model_type": "siglip_vision_model", **VIT, "vision_use_head": False},
    },
    "vipllava": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": VIT,
        "vision_feature_layers": [-1, -2],
    },
    "idefics3": {"text_config": {"model_type": "llama", **TEXT, "pad_token_id": 1}, "vision_config": VIT},
    "smolvlm": {
        "text_config": {"model_type": "llama", **TEXT, "pad_token_id": 1},
        "vision_config": VIT,
        "scale_factor": 4,
    },
    "glm4v": {"text_config": {**TEXT, "pad_token_id": 1}, "vision_config": {**GLM_VIT, "attention_bias": True}},
    "glm4v_moe": {"text_config": {**TEXT, **GLM_MOE}, "vision_config": GLM_VIT},
    "internvl": {"text_config": {"model_type": "qwen2", **TEXT}, "vision_config": VIT},
    "internvl, other norms": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {**VIT, "norm_type": "rms_norm", "attention_bias": True, "use_qk_norm": True},
        "downsample_ratio": 0.25,
    },
    "paligemma": {
        "text_config": {"model_type": "gemma", **TEXT},
        "vision_config": {**VIT, "vision_use_head": False},
        "projection_dim": 64,
    },
    "llama4": {
        "text_config": {**TEXT, "num_local_experts": 2, "intermediate_size_mlp": 96, "num_hidden_layers": 2},
        "vision_config": {
            **VIT,
            "intermediate_size": 128,
            "vision_output_dim": 128,
            "projector_input_dim": 128,
            "projector_output_dim": 128,
        },
    },
}


@pytest.mark.parametrize("name", AUDIO)
def test_the_text_model_and_the_audio_tower_are_the_whole_model(name: str) -> None:
    _check_left_out(name, AUDIO[name], transformers.AutoModelForSeq2SeqLM)


@pytest.mark.parametrize("name", WHOLE)
def test_the_text_model_and_what_is_left_out_are_the_whole_model(name: str) -> None:
    _check_left_out(name, WHOLE[name], transformers.AutoModelForImageTextToText)


def _check_left_out(name: str, fields: dict[str, Any], auto_class: Any) -> None:
    values = {"model_type": name.split(",", maxsplit=1)[0], **fields}
    definition = from_hf_config(name, HFConfig(origin="c.json", values=values))
    left_out = re.search(r"left out: ([\d,]+) parameters", definition.notes[0])
    assert left_out, definition.notes
    theirs = in_transformers(values, auto_class)
    assert golden_models.parameters(definition) + int(left_out[1].replace(",", "")) == theirs
