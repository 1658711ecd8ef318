"""`CanonicalLoRA` refuses invalid settings when it is constructed and when it is used."""

from __future__ import annotations

from typing import Any

import pytest

from clora.canonical_lora import DEFAULT_TARGETS, CanonicalLoRA
from clora.errors import CloraError, LoRAConfigError, TargetError

REFUSED: list[tuple[dict[str, Any], type[CloraError], str]] = [
    ({"dim": 0}, LoRAConfigError, "dim = 0"),
    ({"dim": -8}, LoRAConfigError, "dim = -8"),
    ({"dim": 8.5}, LoRAConfigError, "whole number"),
    ({"dim": 10**9}, LoRAConfigError, "65,536"),
    ({"dim": True}, LoRAConfigError, "dim = True"),
    ({"dim": float("inf")}, LoRAConfigError, "dim = inf"),
    ({"dim": float("nan")}, LoRAConfigError, "dim = nan"),
    ({"dim": 10**400}, LoRAConfigError, "dim = a number of about 400 digits: the LoRA rank"),
    ({"dim": 10**5000}, LoRAConfigError, "dim = a number of about 5,000 digits"),
    ({"alpha": 10**400}, LoRAConfigError, "alpha = a number of about 400 digits: it is a positive"),
    ({"alpha": 1e300}, LoRAConfigError, r"alpha = 1e\+300"),
    ({"alpha": 5e-324}, LoRAConfigError, "alpha = 5e-324"),
    ({"alpha": [8]}, LoRAConfigError, r"alpha = \[8\]"),
    ({"dropout": float("nan")}, LoRAConfigError, "dropout = nan"),
    ({"dropout": 10**5000}, LoRAConfigError, "dropout = a number of about 5,000 digits"),
    ({"dropout_position": []}, LoRAConfigError, r"dropout_position = \[\]"),
    ({"lora_A_init_method": 10**5000}, LoRAConfigError, "lora_A_init_method = a number"),
    ({"normalize_moe_lora": float("nan")}, LoRAConfigError, "normalize_moe_lora = nan"),
    ({"share_expert_adapters": 1}, LoRAConfigError, "share_expert_adapters = 1"),
    ({"target_modules": 10**5000}, TargetError, "target_modules = a number"),
    ({"dim": "16"}, LoRAConfigError, "dim = '16'"),
    ({"alpha": 0}, LoRAConfigError, "positive"),
    ({"alpha": float("nan")}, LoRAConfigError, "positive"),
    ({"alpha": float("inf")}, LoRAConfigError, "positive"),
    ({"dropout": 1.0}, LoRAConfigError, "probability"),
    ({"dropout": -0.1}, LoRAConfigError, "probability"),
    ({"dropout_position": "middle"}, LoRAConfigError, "'pre', 'post'"),
    ({"lora_A_init_method": "uniform"}, LoRAConfigError, "'xavier'"),
    ({"lora_B_init_method": None}, LoRAConfigError, "'zero'"),
    ({"lora_A_init_method": "zero"}, LoRAConfigError, "no gradient"),
    ({"normalize_moe_lora": "yes"}, LoRAConfigError, "True or False"),
    ({"target_modules": "all-linear"}, TargetError, "letter by letter"),
    ({"target_modules": "linear_q"}, TargetError, r"\['linear_q'\]"),
    ({"target_modules": ["linear_qkv"]}, TargetError, "'linear_q', 'linear_k', 'linear_v'"),
    ({"target_modules": [3]}, TargetError, "int"),
    ({"target_modules": 3}, TargetError, "list of strings"),
    ({"exclude_modules": ["output_layer"]}, TargetError, r"target_modules=\[\]"),
]


@pytest.mark.parametrize(("fields", "error", "message"), REFUSED)
def test_a_mistake_is_told_at_construction(fields: dict[str, Any], error: type[CloraError], message: str) -> None:
    with pytest.raises(error, match=message):
        CanonicalLoRA(**fields)


def test_the_defaults_are_the_reference_s() -> None:
    lora = CanonicalLoRA()
    assert sorted(lora.target_modules) == sorted(DEFAULT_TARGETS)
    assert (lora.dim, lora.alpha, lora.dropout, lora.dropout_position) == (32, 32, 0.0, "pre")
    assert (lora.lora_A_init_method, lora.lora_B_init_method) == ("xavier", "zero")
    assert (lora.normalize_moe_lora, lora.share_expert_adapters) == (False, True)


def test_the_mapping_is_there_at_construction_and_follows_a_later_change() -> None:
    lora = CanonicalLoRA(target_modules=["linear_q"])
    assert lora.canonical_mapping == {"linear_qkv": {"linear_q"}}
    lora.target_modules = ["linear_v", "linear_proj"]
    lora.validate()
    assert lora.canonical_mapping == {"linear_qkv": {"linear_v"}, "linear_proj": {"linear_proj"}}


def test_a_mistake_made_after_construction_is_told_when_used() -> None:
    lora = CanonicalLoRA()
    lora.target_modules = ["linear_fc1"]
    with pytest.raises(TargetError, match="linear_fc1_gate"):
        lora.validate()
