"""PEFT configs that mean W + (alpha / r) B A, as a table over the fields of its `LoraConfig`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import peft
import pytest

from clora.errors import HFAdapterError
from clora.folders.peft_config import HARMLESS_FIELDS, REFUSED_FIELDS, PeftLora, peft_lora

PATH = Path("adapter_config.json")
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 6}


def test_every_field_of_the_installed_peft_has_been_looked_at() -> None:
    # A new release of PEFT may have new ones: read what they do, then add them to a list.
    known = HARMLESS_FIELDS | REFUSED_FIELDS.keys() | set(PeftLora.__struct_fields__)
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} <= known
    assert not HARMLESS_FIELDS & REFUSED_FIELDS.keys()


def test_what_peft_writes_by_default_is_plain_lora() -> None:
    fields = peft.LoraConfig(r=4, target_modules="all-linear").to_dict()
    assert peft_lora({**fields, "peft_type": "LORA"}, PATH).alpha("q_proj") == 8


PLAIN: list[dict[str, Any]] = [
    *(
        {"init_lora_weights": value}
        for value in (True, False, None, "gaussian", "Gaussian", "eva", "orthogonal", "mica")
    ),
    {"rank_pattern": None, "alpha_pattern": None, "use_rslora": None, "bias": None, "modules_to_save": []},
    {"enable_lora": None, "merge_weights": False},
    {"inference_mode": True, "lora_dropout": 0.1, "target_modules": "all-linear", "layers_to_transform": 3},
    {"eva_config": {"rho": 2.0}, "init_lora_weights": "eva"},
    # PEFT leaves the config of an initialisation in a folder that it has converted to plain LoRA.
    {"corda_config": {"cache_file": None}, "loftq_config": {}, "lora_ga_config": None},
    {"qalora_group_size": 16, "megatron_core": "megatron.core", "runtime_config": {"ephemeral_gpu_offload": False}},
    {"alora_invocation_tokens": None, "trainable_token_indices": None, "arrow_config": None, "use_bdlora": None},
    {"a_field_of_2027": None, "another": False, "a_third": {}, "a_fourth": []},
]


@pytest.mark.parametrize("fields", PLAIN, ids=str)
def test_plain_lora_is_read(fields: dict[str, Any]) -> None:
    assert peft_lora({**CONFIG, **fields}, PATH).rank("model.layers.0.self_attn.q_proj") == 4


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(
        ({"init_lora_weights": value}, f"init_lora_weights = '{value}': this initialisation changes the base weights")
        for value in ("pissa", "PiSSA", "pissa_niter_16", "olora", "OLoRA", "corda", "lora_ga", "loftq")
    ),
    ({"init_lora_weights": "lora_xs"}, "init_lora_weights = 'lora_xs', an initialisation that is not known here"),
    ({"init_lora_weights": 5}, r"Expected `bool \| str \| null`, got `int` - at `\$\.init_lora_weights`"),
    *(
        ({name: value}, f"has {name}.*, which canonical LoRA cannot express: ")
        for name, value in {
            "alora_invocation_tokens": [1],
            "arrow_config": {"top_k": 1},
            "bias": "lora_only",
            "enable_lora": [True, False, True],
            "fan_in_fan_out": True,
            "kasa_config": {"beta": 1.0},
            "layer_replication": [[0, 4], [2, 5]],
            "lora_bias": True,
            "megatron_config": {"hidden_size": 8},
            "modules_to_save": ["lm_head"],
            "monteclora_config": {"sample": 4},
            "target_parameters": ["mlp.experts.down_proj"],
            "trainable_token_indices": {"embed_tokens": [3]},
            "use_bdlora": {"nblocks": 2},
            "use_dora": True,
            "use_qalora": True,
        }.items()
    ),
    ({"peft_type": "ADALORA"}, "peft_type = 'ADALORA'"),
    ({"a_field_of_2027": True}, "has a_field_of_2027, a field that is not known here"),
    ({"a_field_of_2027": "polar"}, "has a_field_of_2027 = 'polar', a field that is not known here"),
    ({"a_field_of_2027": {"k": 1}}, "has a_field_of_2027, a field that is not known here"),
    ({"rank_pattern": {"layers.[01].q": 4}}, "the pattern .* a regular expression"),
    ({"rank_pattern": {"q_proj": "4"}}, r"Expected `int`, got `str`"),
    ({"alpha_pattern": 5}, r"Expected `object \| null`, got `int`"),
    ({"lora_alpha": 10**400}, "out of range"),
    ({"r": 0}, r"Expected `int` >= 1 - at `\$\.r`"),
    ({"r": -(10**400)}, r"Expected `int` >= 1 - at `\$\.r`"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED, ids=lambda value: str(value)[:60])
def test_anything_else_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(HFAdapterError, match=words):
        peft_lora({**CONFIG, **fields}, PATH)


def test_every_refusal_has_its_row() -> None:
    assert {name for fields, _ in REFUSED for name in fields} >= REFUSED_FIELDS.keys()


@pytest.mark.parametrize(
    ("pattern", "module", "alpha"),
    [
        ("q_proj", "model.layers.0.self_attn.q_proj", 12),
        ("q_proj", "model.layers.0.self_attn.qq_proj", 6),
        ("layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj", 6),
        ("^model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", 12),
        ("^layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", 6),
        (r"self_attn\.q_proj$", "model.layers.0.self_attn.q_proj", 12),
    ],
)
def test_a_pattern_means_what_it_means_to_peft(pattern: str, module: str, alpha: float) -> None:
    from peft.utils.other import get_pattern_key

    config = peft_lora({**CONFIG, "alpha_pattern": {pattern: 12}}, PATH)
    assert config.alpha(module) == alpha
    assert (12 if get_pattern_key([pattern], module) == pattern else 6) == alpha
