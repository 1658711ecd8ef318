"""The LoRA in an `adapter_config.json` adapts here what PEFT adapts in the Hugging Face model: both
are asked, on real tiny models.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import hf_tiny
import peft
import pytest
import torch
import transformers
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers, check_target_module_exists

from clora.canonical_lora import CanonicalLoRA
from clora.hf_names import NoHFLinear, hf_linears
from clora_inspect.config.lora_file.errors import LoRAFileError
from clora_inspect.config.lora_file.reader import read_lora_file
from clora_inspect.job.job import Job
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job

if TYPE_CHECKING:
    from pathlib import Path

ATTENTION = ["q_proj", "v_proj", "o_proj"]
EVERYWHERE = r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|up|down)_proj"
UNSLOTH = (
    r"(?:.*?(?:language|text|model).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj))"
)

CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"target_modules": ATTENTION}),
    ("llama", {"target_modules": "all-linear"}),
    ("llama", {"target_modules": EVERYWHERE}),
    ("llama", {"target_modules": UNSLOTH}),
    ("llama", {"target_modules": r".*\.1\..*_proj", "exclude_modules": r".*mlp.*"}),
    ("llama", {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": 1}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]}),
    ("llama", {"target_modules": ["layers.0.self_attn.k_proj", "mlp.up_proj", "lm_head"]}),
    ("llama", {"target_modules": ["q_proj", "k_proj", "up_proj"], "exclude_modules": ["model.layers.0.mlp.up_proj"]}),
    ("nemotron", {"target_modules": "all-linear"}),
    ("starcoder2", {"target_modules": ["c_fc", "c_proj", "q_proj"]}),
    ("phi3", {"target_modules": ["o_proj", "down_proj"]}),
    ("mixtral", {"target_modules": ["w1", "w2", "w3", "q_proj"]}),
    ("mixtral", {"target_modules": r".*experts\.\d+\.w[123]"}),
    ("mixtral", {"target_modules": ["w2"], "layers_to_transform": [1]}),
    ("qwen3_moe", {"target_modules": ["gate_proj", "up_proj", "down_proj"]}),
    ("qwen3_moe", {"target_modules": r".*\.mlp\.(up|down)_proj"}),
    ("qwen3_moe", {"target_modules": r"model\.layers\.[02]\..*"}),
    ("qwen2_moe", {"target_modules": "all-linear", "exclude_modules": ["shared_expert.down_proj"]}),
    ("deepseek_v3", {"target_modules": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]}),
    ("deepseek_v3", {"target_modules": "all-linear"}),
]


@cache
def _hugging_face(name: str) -> Any:
    architecture, fields = hf_tiny.MODELS[name]
    config = getattr(transformers, f"{architecture}Config")(**fields)
    with quiet(), torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def _adapted_by_peft(name: str, fields: dict[str, Any]) -> set[str]:
    model = _hugging_face(name)
    config = _maybe_include_all_linear_layers(peft.LoraConfig(**fields), model)
    linears = [path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    excluded = [
        path for path in linears if type(check_target_module_exists(config, path)).__name__ == "_ExcludedModule"
    ]
    return {path for path in linears if path not in excluded and check_target_module_exists(config, path)}


def _adapted_here(folder: Path, lora: CanonicalLoRA) -> set[str]:
    plan = plan_job(Job(model=str(folder), lora=lora, targets_written=True))
    found: set[str] = set()
    for each in plan.rank_classes[0].placements:
        linears = hf_linears(each, str(plan.model.hf_model_type))
        assert not isinstance(linears, NoHFLinear), each.module
        found |= {linear.module for linear in linears}
    return found


@pytest.mark.parametrize(("name", "fields"), CASES, ids=str)
def test_what_peft_adapts_is_adapted(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    with quiet():
        _hugging_face(name).config.save_pretrained(tmp_path)
    written = {**peft.LoraConfig(r=4, **fields).to_dict(), "peft_type": "LORA"}
    # PEFT writes sets as lists.
    written = {key: sorted(value) if isinstance(value, set) else value for key, value in written.items()}
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    # Gate and up of grouped experts have one pair here, which is no question of what is adapted.
    table = read_lora_file(tmp_path, str(tmp_path), {}, folder=tmp_path, as_canonical=True)
    lora = CanonicalLoRA(**table.written())
    # Routers are no linears here; see docs/inputs.md.
    expected = {path for path in _adapted_by_peft(name, fields) if not path.endswith((".gate", "_gate"))}
    assert _adapted_here(tmp_path, lora) == expected
    assert (lora.dim, lora.alpha, lora.dropout) == (4, 8, 0)
    assert lora.share_expert_adapters is not any(".experts." in path for path in expected)


def _read(tmp_path: Path, fields: dict[str, Any], model: str = "llama3-8b", **options: Any) -> dict[str, Any]:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"], **fields}))
    table = read_lora_file(path, model, {}, folder=tmp_path, **{"as_canonical": False, **options})
    return table.written()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"r": 16, "lora_alpha": 32, "lora_dropout": 0.1}, {"dim": 16, "alpha": 32, "dropout": 0.1}),
        ({"r": 16, "lora_alpha": 32, "use_rslora": True}, {"dim": 16, "alpha": 128}),
        # Both linears have the rank of the pattern, so that one dim is enough.
        ({"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 4, "v_proj": 4}}, {"dim": 4}),
        ({"alpha_pattern": {"q_proj": 64, "k_proj": 1}}, {"alpha": 64}),
        ({}, {"target_modules": ["linear_q"], "lora_A_init_method": "kaiming", "dim": 8, "alpha": 8}),
    ],
)
def test_fields_that_are_honoured(fields: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    assert _read(tmp_path, fields).items() >= expected.items()


def test_multi_token_prediction_is_left_alone_as_by_peft(tmp_path: Path) -> None:
    targets = _read(tmp_path, {"target_modules": ["o_proj"]}, "deepseek-v3")["target_modules"]
    assert targets == ["linear_proj"]
    (tmp_path / "config.json").write_text(json.dumps({**hf_tiny.MLA, "model_type": "deepseek_v3"}))
    path = tmp_path / "adapter_config.json"
    table = read_lora_file(path, str(tmp_path), {"mtp_num_layers": 1}, folder=tmp_path, as_canonical=False)
    assert table.target_modules == ["decoder.*.linear_proj"]


def test_a_fused_linear_is_planned_by_its_parts_only_if_asked(tmp_path: Path) -> None:
    model = tmp_path / "model"
    with quiet():
        _hugging_face("phi3").config.save_pretrained(model)
    fields = {"target_modules": ["qkv_proj", "gate_up_proj"]}
    for name in fields["target_modules"]:
        with pytest.raises(LoRAFileError, match=rf"{name}, one linear there with one pair.*--lora-as-canonical"):
            _read(tmp_path, {"target_modules": [name]}, str(model))
    targets = _read(tmp_path, fields, str(model), as_canonical=True)["target_modules"]
    assert set(targets) == {"linear_q", "linear_k", "linear_v", "linear_fc1_gate", "linear_fc1_up"}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
    ({"use_dora": True}, "use_dora.*magnitude"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save.*whole modules"),
    ({"bias": "all"}, "bias = 'all'"),
    ({"init_lora_weights": "gaussian"}, "init_lora_weights = 'gaussian', first values"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'.*changes the base"),
    ({"init_lora_weights": False}, "init_lora_weights = False"),
    (
        {"rank_pattern": {"q_proj": 4}, "target_modules": ["q_proj", "v_proj"]},
        "rank_pattern: .*r = 4.*r = 8|r = 8.*r = 4",
    ),
    ({"alpha_pattern": {"v_proj": 4}, "target_modules": ["q_proj", "v_proj"]}, "alpha_pattern"),
    ({"target_modules": ["q_proj", "c_attn"]}, "target_modules has 'c_attn', which is no linear of a llama"),
    ({"target_modules": ["embed_tokens"]}, "'embed_tokens', which is no linear"),
    ({"target_modules": None}, "has no target_modules"),
    ({"target_modules": []}, "has no target_modules"),
    ({"target_modules": ".*c_attn"}, "selects no linear of this llama"),
    ({"layers_to_transform": [99]}, "selects no linear"),
    ({"layers_to_transform": [-1]}, "layers are counted from 0"),
    ({"layers_pattern": "(a+)+", "layers_to_transform": [1]}, "layers_pattern has '.*an expression"),
    ({"target_modules": "(a+)+b"}, "target_modules = '.*could take forever"),
    ({"target_modules": "(.*)*" * 50}, "could take forever"),
    ({"target_modules": ".*.*.*.*.*.*.*x"}, "has 7 repetitions"),
    ({"target_modules": "("}, "is no regular expression"),
    ({"target_modules": "a" * 5000}, "has 5,000 characters"),
    ({"exclude_modules": r"(q|k)+"}, "exclude_modules = '.*could take forever"),
    ({"target_modules": r"(q)\1.*"}, "could take forever"),
    ({"target_modules": 5}, "Expected"),
    ({"r": 10**9}, "Expected"),
    ({"r": 0}, "Expected"),
    ({"lora_dropout": "much"}, "lora_dropout"),
    ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
    ({"a_field_of_2031": 1}, "a_field_of_2031, a field that is not known"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_fields_that_are_refused_by_name(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(LoRAFileError, match=said) as caught:
        _read(tmp_path, fields)
    assert "adapter_config.json" in str(caught.value)


def test_gate_and_up_of_grouped_experts_share_a_pair(tmp_path: Path) -> None:
    fields = {"target_modules": ["w1", "w3"]}
    with pytest.raises(LoRAFileError, match=r"experts\.0\.w1 and .*experts\.0\.w3, with a pair A and B each"):
        _read(tmp_path, fields, "mixtral-8x7b")
    with pytest.raises(LoRAFileError, match="selects one of gate and up of the experts"):
        _read(tmp_path, {"target_modules": ["w1"]}, "mixtral-8x7b", as_canonical=True)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["w1"]}))
    single = {"moe_grouped_gemm": False}
    table = read_lora_file(path, "mixtral-8x7b", single, folder=tmp_path, as_canonical=False)
    assert table.target_modules == ["decoder.layers.{0..31}.mlp.experts.local_experts.*.linear_fc1_gate"]


def test_one_expert_of_a_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoRAFileError, match="selects 1 of the 16 linears of the experts"):
        _read(tmp_path, {"target_modules": ["experts.3.w1"]}, "mixtral-8x7b")


def test_a_function_has_no_hugging_face_names(tmp_path: Path) -> None:
    with pytest.raises(LoRAFileError, match="is a function, of which no Hugging Face names are known"):
        _read(tmp_path, {}, "recipes.py:build")
