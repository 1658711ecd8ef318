"""Fingerprints: one name for each linear, what is compared when adapters are loaded, and what is
said where nothing can be compared. tests/parallel/test_fingerprints.py has the layouts.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import lora_models
import pytest
import torch
from safetensors.torch import load_file, save_file

from clora import CanonicalLoRA, CheckpointError, export_hf, import_hf, load_adapters, save_adapters
from clora.errors import FingerprintError
from clora.families import families
from clora.fingerprints.names import names_in_hf, names_in_megatron
from clora.folders.fingerprint import common_pairs_once, differing, record_of
from clora.hf_names import NoHFLinear, hf_linears
from clora.layer_pattern import LayerPattern
from clora.plan import ExpertFacts
from clora_inspect.checkpoint.fingerprint import fingerprint_of
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

LAYER = "decoder.layers.7."
EXPERT_FACTS = ExpertFacts(num_experts=1, num_local_experts=1, per_expert=True, ep=1, etp=1)
MODULES: list[tuple[str, str | None]] = [
    *((f"{LAYER}self_attention.linear_qkv", part) for part in "qkv"),
    *((f"{LAYER}self_attention.{name}", None) for name in ("linear_proj", "linear_q_proj", "linear_q_down_proj")),
    *((f"{LAYER}self_attention.{name}", None) for name in ("linear_q_up_proj", "linear_kv_down_proj", "out_proj")),
    (f"{LAYER}self_attention.linear_kv_up_proj", None),
    (f"{LAYER}mixer.in_proj", None),
    *(
        (f"{LAYER}mlp.{inside}{linear}", part)
        for inside in ("", "shared_experts.", "experts.")
        for linear, part in (("linear_fc1", None), ("linear_fc1", "gate"), ("linear_fc1", "up"), ("linear_fc2", None))
    ),
    ("output_layer", None),
]


class _Named:
    """A linear as `hf_linears` wants it."""

    def __init__(self, module: str, part: str | None) -> None:
        self.module, self.part = module, part
        self.global_layer = None if module == "output_layer" else 7
        self.experts = EXPERT_FACTS if ".experts." in module else None


@pytest.mark.parametrize("model_type", sorted(families()))
def test_each_linear_has_one_name_from_both_sides(model_type: str) -> None:
    names = families()[model_type].names
    gate = (names.expert_projections or names.projections)[0]
    compared = 0
    for module, part in MODULES:
        found = hf_linears(_Named(module, part), model_type)
        # An MLP without a gate has no linear for that part.
        if isinstance(found, NoHFLinear) or not found:
            continue
        expert = 0 if ".experts." in module else None
        # A whole `linear_fc1` that Hugging Face has as one linear, too, may be gate and up or not.
        fused = {"gate_up_proj", "input_linear"} & {linear.module.rpartition(".")[2] for linear in found}
        gated = bool(fused) or (gate is not None and part is None)
        theirs = {own.name for linear in found for own in names_in_hf(linear.module)}
        ours = names_in_megatron(module, part, expert=expert, gated=gated, output_gate=False)
        assert {own.name for own in ours} == theirs
        compared += 1
    assert compared > 1


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("model.language_model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.q_proj"),
        ("language_model.model.layers.3.mlp.up_proj", "model.layers.3.mlp.up_proj"),
        ("language_model.lm_head", "lm_head"),
        ("model.visual.layers.3.self_attn.q_proj", "model.visual.layers.3.self_attn.q_proj"),
        ("model.layers.3.mlp.router", "model.layers.3.mlp.router"),
    ],
)
def test_what_stands_around_the_text_model_does_not_count(module: str, name: str) -> None:
    assert [own.name for own in names_in_hf(module)] == [name]


def test_a_hybrid_model_has_the_names_of_the_gpt_model() -> None:
    pattern = LayerPattern("*-*-")
    for module, name in (
        ("decoder.layers.2.self_attention.linear_proj", "model.layers.1.self_attn.o_proj"),
        ("decoder.layers.3.mlp.linear_fc2", "model.layers.1.mlp.down_proj"),
    ):
        (found,) = names_in_megatron(module, None, gated=True, output_gate=False, pattern=pattern)
        assert found.name == name


def test_a_pair_of_all_experts_counts_once() -> None:
    def of(*digests: str) -> dict[str, str]:
        return {f"model.layers.0.mlp.experts.{n}.up_proj": digest for n, digest in enumerate(digests)}

    once = {"model.layers.0.mlp.experts.*.up_proj": "a"}
    assert common_pairs_once(of("a", "a", "a")) == common_pairs_once(of("a")) == common_pairs_once(once) == once
    assert common_pairs_once(of("a", "b")) == of("a", "b")
    holey = {name: digest for name, digest in of("a", "a", "a").items() if ".1." not in name}
    assert common_pairs_once(holey) == holey


def test_an_edited_record_is_seen() -> None:
    record = record_of({"x": "a" * 64}, ["float32"])
    assert differing(record, {"x": "a" * 64}) == []
    assert differing(record, {"x": "b" * 64}) == ["x"]
    assert differing(record, {}) == ["x"]
    edited = type(record)(format=2, sha256="0" * 64, pairs=record.pairs, dtypes=record.dtypes)
    assert differing(edited, {"x": "a" * 64}) == ["the record itself"]


pytestmark = pytest.mark.usefixtures("one_rank")


CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": lora_models.HIDDEN}


def adapted(dtype: torch.dtype = torch.float32, std: float = 0.2, kind: str = "gqa", **lora: Any) -> Any:
    (model,) = lora_models.build(kind, Layout(), dtype=dtype)
    CanonicalLoRA(**{"target_modules": ["linear_q", "linear_proj"], "dim": 4, "alpha": 8, **lora})(model)
    lora_models.fill(model, only=".adapter.", std=std)
    return model


@pytest.fixture(scope="module")
def saved(one_rank: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("saved")
    with quiet():
        save_adapters(adapted(), folder / "clora")
        export_hf(adapted(), folder / "peft", CONFIG)
    return folder


def edited(folder: Path, to: Path, **fields: Any) -> Path:
    """Copy a checkpoint with other fields in its record; without fields it has no record."""
    shutil.copytree(folder, to)
    content = json.loads((to / "adapters.json").read_text())
    content["fingerprint"] = None if not fields else {**content["fingerprint"], **fields}
    (to / "adapters.json").write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return to


@pytest.mark.parametrize(
    ("dtype", "fields", "said"),
    [
        (torch.float32, {}, "has no fingerprint that can be compared"),
        (torch.float32, {"format": 3}, "has no fingerprint that can be compared"),
        (torch.bfloat16, {"format": 2}, "was saved in float32, and is rounded to the dtype of the model, bfloat16"),
        (torch.float64, {"format": 2}, "is rounded to the dtype of the model, float64"),
    ],
)
def test_what_is_not_compared_is_said(
    saved: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    dtype: torch.dtype,
    fields: dict[str, Any],
    said: str,
) -> None:
    folder = edited(saved / "clora", tmp_path / "edited", **fields)
    with caplog.at_level(logging.INFO, "clora"), quiet():
        load_adapters(adapted(dtype, std=0.0), folder)
    assert said in caplog.text


def test_a_wider_model_is_compared(saved: Path, tmp_path: Path) -> None:
    with quiet():
        save_adapters(adapted(torch.bfloat16), tmp_path / "bf16")
        load_adapters(adapted(std=0.0), tmp_path / "bf16")
    wrong = dict.fromkeys(json.loads((tmp_path / "bf16" / "adapters.json").read_text())["fingerprint"]["pairs"], "0")
    folder = edited(tmp_path / "bf16", tmp_path / "edited", pairs=wrong)
    with quiet(), pytest.raises(CheckpointError, match=r"o_proj.* are not what was saved \(4 of 4 linears"):
        load_adapters(adapted(std=0.0), folder)


def test_fp64_is_saved_without_a_fingerprint_and_has_none(tmp_path: Path) -> None:
    with quiet():
        save_adapters(adapted(torch.float64), tmp_path / "fp64")
        load_adapters(adapted(torch.float64, std=0.0), tmp_path / "fp64")
    assert "fingerprint" not in json.loads((tmp_path / "fp64" / "adapters.json").read_text())
    with pytest.raises(FingerprintError, match="are float64, and fingerprints compare values in fp32"):
        fingerprint_of(tmp_path / "fp64")


def test_the_adapters_of_a_whole_model_have_the_fingerprint_too(saved: Path, tmp_path: Path) -> None:
    from megatron.core import dist_checkpointing

    (tmp_path / "iter_0000007").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    with quiet():
        dist_checkpointing.save(adapted().sharded_state_dict(), str(tmp_path / "iter_0000007"))
    with pytest.raises(FingerprintError, match="does not say with which alpha"):
        fingerprint_of(tmp_path)
    found = fingerprint_of(tmp_path, alpha=8)
    assert (found.sha256, found.recorded) == (fingerprint_of(saved / "clora").sha256, None)
    # Megatron-Bridge leaves the configuration of the run beside the tensors.
    (tmp_path / "iter_0000007" / "run_config.yaml").write_text("peft:\n  alpha: 8\nmodel:\n  gated_linear_unit: true\n")
    assert fingerprint_of(tmp_path) == found
    assert fingerprint_of(tmp_path, alpha=16).sha256 != found.sha256


def test_whole_fc1_without_facts_is_refused(tmp_path: Path) -> None:
    lora = {"kind": "grouped-experts", "target_modules": ["linear_fc1_gate", "linear_fc1_up"]}
    with quiet():
        save_adapters(adapted(**lora), tmp_path / "a")
    assert fingerprint_of(tmp_path / "a").linears == 4
    (tmp_path / "a" / "adapters.json").unlink()
    with pytest.raises(FingerprintError, match=r"does not say whether .*linear_fc1 is gate and up"):
        fingerprint_of(tmp_path / "a", alpha=8)


def test_an_import_tells_which_values_are_not_those_of_the_export(
    saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(saved / "peft", tmp_path / "peft")
    import_hf(adapted(std=0.0), tmp_path / "peft", CONFIG)
    assert caplog.text == ""
    weights = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    weights["base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"][3, 2] += 2**-20
    save_file(weights, tmp_path / "peft" / "adapter_model.safetensors", metadata={"format": "pt"})
    import_hf(adapted(std=0.0), tmp_path / "peft", CONFIG)
    assert "model.layers.1.self_attn.o_proj is not what was exported" in caplog.text
