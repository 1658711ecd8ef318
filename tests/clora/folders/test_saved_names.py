"""`load_adapters` reads the adapters of a GPTModel into a HybridModel, and the other way round, bit
for bit, and refuses layers that are not the same. Both are exported under the same Hugging Face
names. One rank; tests/upstream has the layouts.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lora_models
import pytest
import torch
from safetensors.torch import load_file

from clora import CanonicalLoRA, CheckpointError, HFAdapterError, export_hf, load_adapters, save_adapters
from clora.layer_pattern import gpt_path, hybrid_path
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

DENSE_FIRST = {"moe_layer_freq": [0, 1]}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dense": ("gqa", "*-*-", {}),
    "grouped experts": ("grouped-experts", "*E*E", {}),
    "shared experts": ("shared-experts", "*E*E", {}),
    "a dense layer before experts": ("grouped-experts", "*-*E", DENSE_FIRST),
    "latent attention": ("mla", "+-+-", {}),
    "delta nets": ("delta-net", "G-*-", {}),
    "prediction layers": ("mtp", "*-*-/*-", {}),
    "latent attention, experts and prediction layers": ("mla-moe-mtp", "+E+E/+E", {}),
}
KNOWN_LETTERS = set("M*-E") | (set("G+|/") if lora_models.has_hybrid_model() else set())
"""Letters of layers, which HybridModel added to those of MambaModel."""

TARGETS = {
    "all": lora_models.TARGETS,
    "attention": ["linear_q", "linear_kv_up_proj", "linear_proj"],
    "by number": ["decoder.layers.{0..99}.*"],
}
"""Targets that mean the same in both models. No model here has a hundred layers."""


pytestmark = pytest.mark.usefixtures("one_rank")


def adapted(model: Any, std: float, targets: list[str] = lora_models.TARGETS, **lora: Any) -> Any:
    if targets == TARGETS["by number"]:
        targets = [f"*.layers.{{0..99}}.*.{name}" for name in lora_models.TARGETS if name != "output_layer"]
    CanonicalLoRA(**{"target_modules": targets, "dim": 4, "alpha": 8, **lora})(model)
    lora_models.fill(model, only=".adapter.", std=std)
    return model


def gpt(kind: str, std: float = 0.2, targets: list[str] = lora_models.TARGETS, **fields: Any) -> Any:
    return adapted(lora_models.build(KINDS[kind][0], Layout(), **{**KINDS[kind][2], **fields})[0], std, targets)


def hybrid(kind: str, letters: str | None = None, std: float = 0.1, targets: list[str] = lora_models.TARGETS) -> Any:
    name, own, fields = KINDS[kind]
    letters = letters or own
    fields = {field: value for field, value in fields.items() if field != "moe_layer_freq"}
    if not KNOWN_LETTERS.issuperset(letters):
        pytest.skip(f"the hybrid models of this megatron-core have no layers {letters}")
    return adapted(lora_models.build(f"{name} as {letters}", Layout(), **fields)[0], std, targets)


def save(model: Any, folder: Path) -> Path:
    with quiet():
        save_adapters(model, folder)
    return folder


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_the_values_are_the_same_bits(kind: str, targets: str, tmp_path: Path) -> None:
    source, target = gpt(kind, targets=TARGETS[targets]), hybrid(kind, targets=TARGETS[targets])
    with quiet():
        load_adapters(target, save(source, tmp_path / "gpt"))
    expected = lora_models.adapters_of(source)
    found = {gpt_path(name): value for name, value in lora_models.adapters_of(target).items()}
    assert len(expected) >= 4
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())

    back = gpt(kind, 0.3, TARGETS[targets])
    with quiet():
        load_adapters(back, save(target, tmp_path / "hybrid"))
    assert all(torch.equal(value, expected[name]) for name, value in lora_models.adapters_of(back).items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_hybrid_model_computes_what_the_gpt_model_does(kind: str) -> None:
    tokens, positions, _ = lora_models.batch(12)
    with torch.no_grad():
        expected, found = (model(tokens, positions, None).double() for model in (gpt(kind, 0.2), hybrid(kind, std=0.2)))
    assert expected.shape == (*tokens.shape, lora_models.VOCABULARY)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


HF = {"num_hidden_layers": 2, "hidden_size": lora_models.HIDDEN, "vocab_size": lora_models.VOCABULARY}
HF_TYPES = {"dense": "llama", "grouped experts": "qwen3_moe", "a dense layer before experts": "qwen3_moe"}


@pytest.mark.parametrize("kind", HF_TYPES)
def test_the_same_adapters_are_the_same_folder_of_hugging_face(kind: str, tmp_path: Path) -> None:
    config = {"model_type": HF_TYPES[kind], **HF}
    targets = [name for name in lora_models.TARGETS if name != "router"]
    source, target = gpt(kind, targets=targets), hybrid(kind, targets=targets)
    with quiet():
        load_adapters(target, save(source, tmp_path / "gpt"))
        reports = [export_hf(model, tmp_path / model.__class__.__name__, config) for model in (source, target)]
    written, expected = (load_file(f"{report.folder}/adapter_model.safetensors") for report in reversed(reports))
    assert len(expected) >= 28
    assert written.keys() == expected.keys()
    assert all(torch.equal(value, written[name]) for name, value in expected.items())


def test_layers_of_another_order_have_no_names_at_hugging_face(tmp_path: Path) -> None:
    with pytest.raises(HFAdapterError, match="the layers of this model \\(-\\*-\\*\\) do not alternate so"):
        export_hf(hybrid("dense", "-*-*"), tmp_path / "hf", {"model_type": "llama", **HF, "num_hidden_layers": 4})


def test_every_path_is_translated_and_back() -> None:
    assert hybrid_path("decoder.layers.3.mlp.linear_fc1") == "decoder.layers.7.mlp.linear_fc1"
    for path in (
        *("decoder.layers.3.self_attention.linear_qkv", "decoder.layers.0.pre_mlp_layernorm", "output_layer"),
        *("decoder.final_layernorm", "mtp.layers.1.mtp_model_layer.mlp.experts.linear_fc1", "mtp.layers.0.eh_proj"),
    ):
        assert gpt_path(hybrid_path(path)) == path
    assert gpt_path("decoder.layers.6.mlp") is None, "the MLP of an attention layer is empty"


REFUSED = {
    "of another depth": (
        "dense",
        "*-*-*-",
        "for the 2 layers of a GPTModel, and the layers of this model \\(\\*-\\*-\\*-\\)",
    ),
    "with another order": ("dense", "-*-*", "layers of this model \\(-\\*-\\*\\) are not attention and MLP in turn"),
    "with experts elsewhere": ("a dense layer before experts", "*E*-", "is of other adapters: it lacks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layers_that_are_not_the_same_are_refused(case: str, tmp_path: Path) -> None:
    kind, letters, message = REFUSED[case]
    folder = save(gpt(kind), tmp_path / "gpt")
    model = hybrid(kind, letters)
    before = lora_models.adapters_of(model)
    with pytest.raises(CheckpointError, match=message), quiet():
        load_adapters(model, folder)
    assert all(torch.equal(value, before[name]) for name, value in lora_models.adapters_of(model).items())


def test_a_hybrid_model_with_other_layers_is_refused_by_its_letters(tmp_path: Path) -> None:
    folder = save(hybrid("dense", "*-*-*-"), tmp_path / "hybrid")
    assert json.loads((folder / "adapters.json").read_text())["layer_pattern"] == "*-*-*-"
    with pytest.raises(CheckpointError, match="with the layers \\*-\\*-\\*-, and this model has \\*-\\*-"), quiet():
        load_adapters(hybrid("dense"), folder)
    with pytest.raises(CheckpointError, match="is of other adapters"), quiet():
        load_adapters(gpt("dense"), folder)


def test_numbers_that_could_mean_either_are_refused(tmp_path: Path) -> None:
    """The keys say layers 0 and 2: in a GPTModel other layers than in a HybridModel."""
    every_second = [f"decoder.layers.{number}.self_attention.linear_proj" for number in (0, 2)]
    model = hybrid("dense", "*-*-*-*-", targets=every_second)
    folder = save(model, tmp_path / "a")
    with quiet():
        load_adapters(model, folder)
    shutil.copytree(folder, tmp_path / "old")
    document = json.loads((folder / "adapters.json").read_text())
    document.pop("layer_pattern")
    (tmp_path / "old" / "adapters.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="does not say whether its layer numbers"), quiet():
        load_adapters(model, tmp_path / "old")
