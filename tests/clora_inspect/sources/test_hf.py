"""Reading a config.json: JSON as Python reads it, the head that it names, and what is no model of
one kind of data.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from clora.errors import ModelError
from clora.families.base.hf_config import HFConfig
from clora_inspect.job.layout import Layout
from clora_inspect.sources.definition import from_hf_config, load_definition
from clora_inspect.sources.hf import family_of, read_config

if TYPE_CHECKING:
    from pathlib import Path

LLAMA: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": 2}


def config(**values: Any) -> HFConfig:
    return HFConfig(origin="c.json", values={**LLAMA, **values})


def refusal(**values: Any) -> str:
    with pytest.raises(ModelError) as error:
        from_hf_config("c", config(**values))
    return str(error.value)


def test_infinity_is_read_as_python_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**LLAMA, "time_step_limit": [0.0, float("inf")], "unused": float("nan")}))
    assert "Infinity" in file.read_text()
    assert read_config(file).values["time_step_limit"] == [0.0, float("inf")]
    assert load_definition(str(file)).config["num_layers"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ('{"model_type": "llama", "vocab_size": ' + "9" * 5000 + "}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"model_type": "llama", "rope_theta": Infinity}', "rope_theta = "),
        ("[1]", "holds a JSON array"),
        ("\xff\xfe", "not valid JSON"),
    ],
)
def test_what_is_no_config_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=re.escape(words)):
        load_definition(str(file))


@pytest.mark.parametrize(
    "architecture", ["LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaModel", "LlamaForReward"]
)
def test_a_model_with_another_head_is_refused(architecture: str) -> None:
    words = refusal(architectures=[architecture])
    assert words.startswith(f'c.json: architectures = ["{architecture}"]: the model has another head')


@pytest.mark.parametrize("named", [None, [], ["LlamaForCausalLM"], ["GPT2LMHeadModel"], "LlamaForCausalLM", [3]])
def test_a_causal_language_model_is_built_whatever_its_class_is_called(named: Any) -> None:
    assert from_hf_config("c", config(architectures=named)).config["num_layers"] == 2


def test_sizes_that_are_left_out_are_those_of_transformers() -> None:
    config = from_hf_config("c", HFConfig(origin="c.json", values={"model_type": "llama", "vocab_size": 32064})).config
    sizes = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads")
    assert [config[size] for size in sizes] == [32, 4096, 11008, 32]


MISSPELT = {"lama": "llama", "LLaMA": "llama", "qwen-2": "qwen2", "mistrall": "mistral", "qwne2": "qwen2"}
NO_TYPO = ["jamba2", "flex_olmo", "deepseek_v4", "gemma3n", "bamba", "bert", "t5", "x" * 100_000]


@pytest.mark.parametrize("written", MISSPELT)
def test_a_misspelt_model_type_is_corrected(written: str) -> None:
    assert refusal(model_type=written).endswith(f"Did you mean {MISSPELT[written]}?")


@pytest.mark.parametrize("written", NO_TYPO)
def test_another_model_type_is_no_typo_and_the_ways_out_are_named(written: str) -> None:
    words = refusal(model_type=written)
    assert "Did you mean" not in words
    assert "FILE.py:FUNCTION" in words
    assert len(words) < 1500


def test_a_known_family_that_cannot_be_built_says_why() -> None:
    words = refusal(model_type="falcon_h1")
    assert "Mamba and attention side by side" in words
    assert "FILE.py:FUNCTION" in words


NEW_WORDS = ["linear_attention", "full_attention", "moe", "mlp"]


def nemotron_h(**values: Any) -> Any:
    small = {"hidden_size": 64, "num_attention_heads": 8, "mamba_num_heads": 8, "mamba_head_dim": 16}
    experts = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return from_hf_config(
        "c", HFConfig(origin="c.json", values={"model_type": "nemotron_h", **small, **experts, **values})
    )


@pytest.mark.parametrize("field", ["layers_block_type", "layer_types"])
def test_nemotron_h_has_the_layers_that_newer_files_name(field: str) -> None:
    assert nemotron_h(**{field: NEW_WORDS}).model["hybrid_override_pattern"] == "M*E-"


def test_nemotron_h_reads_the_other_names_of_its_fields() -> None:
    assert nemotron_h(layers_block_type=["mamba"], mamba_n_groups=4).config["mamba_num_groups"] == 4
    with pytest.raises(ModelError, match="use_conv_bias = false"):
        nemotron_h(layers_block_type=["mamba"], mamba_conv_bias=False)


def test_layers_that_predict_further_tokens_are_noted() -> None:
    assert (
        "1 multi-token-prediction layer" in nemotron_h(layers_block_type=["mamba"], num_nextn_predict_layers=1).notes[0]
    )


TEXT = {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 64}


@pytest.mark.parametrize("field", ["text_config", "llm_config", "language_config"])
def test_a_model_of_several_modalities_is_read_by_its_text_model(field: str) -> None:
    whole = HFConfig(origin="c.json", values={"model_type": "some_vl", field: TEXT, "audio_config": {}})
    definition = from_hf_config("c", whole)
    assert definition.model_type == "llama"
    assert definition.model["vocab_size"] == 64
    assert definition.notes[0] == (
        "Of this some_vl model, the text model (llama) is built. What audio_config describes is left out."
    )


def test_an_error_in_a_text_model_names_the_object_in_the_file() -> None:
    values = {"model_type": "llava", "text_config": {**TEXT, "hidden_size": "x"}}
    with pytest.raises(ModelError, match=re.escape('c.json: text_config: hidden_size = "x"')):
        from_hf_config("c", HFConfig(origin="c.json", values=values))
    values = {"model_type": "internvl_chat", "llm_config": {**TEXT, "hidden_size": "x"}}
    with pytest.raises(ModelError, match=re.escape('c.json: llm_config: hidden_size = "x"')):
        from_hf_config("c", HFConfig(origin="c.json", values=values))


@pytest.mark.parametrize("text", [3, "llama", [], {"model_type": 5}, {"model_type": "never_heard_of"}])
def test_an_unknown_text_model_is_refused_as_the_whole_is(text: Any) -> None:
    with pytest.raises(ModelError, match="not supported"):
        family_of(HFConfig(origin="c.json", values={"model_type": "some_vl", "text_config": text}))


def test_a_mamba_model_has_no_layers_that_predict_further_tokens() -> None:
    definition = nemotron_h(layers_block_type=["mamba"], num_nextn_predict_layers=1)
    assert definition.notes[0].endswith("MambaModel lacks it.")
    with pytest.raises(ModelError, match="mtp_num_layers = 1: megatron-core's MambaModel has no"):
        definition.override({"mtp_num_layers": 1}).check(Layout())
