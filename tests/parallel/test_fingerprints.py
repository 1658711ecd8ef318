"""One fingerprint on every layout, in every form, for each kind of model."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from gloo import on_ranks

from clora.folders.checkpoint_metadata import read_places
from clora_inspect.checkpoint.fingerprint import FoundFingerprint, fingerprint_of
from clora_inspect.job.layout import Layout

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("gqa", {"model_type": "llama"}),
    "llama in bfloat16": ("gqa", {"model_type": "llama", "dtype": "bfloat16"}),
    "qwen3-moe, one pair for all experts": ("grouped-experts", {"model_type": "qwen3_moe"}),
    "qwen3-moe, a pair per expert": (
        "grouped-experts",
        {"model_type": "qwen3_moe", "lora": {"share_expert_adapters": False}},
    ),
    "qwen3-moe, sequential experts": ("sequential-experts", {"model_type": "qwen3_moe"}),
    "deepseek": ("mla", {"model_type": "deepseek_v2"}),
    "qwen3-next, output gate and shared experts": (
        "shared-experts",
        {"model_type": "qwen3_next", "fields": {"attention_output_gate": True}},
    ),
    "nemotron-h, Mamba": ("mamba", {"model_type": "nemotron_h", "targets": ["in_proj", "linear_proj"]}),
}


def nightly(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.nightly)


CASES: list[Any] = [
    ("llama", {"tp": 4}, "0.6.0"),
    nightly("llama", {"tp": 2}, "0.4.2"),
    nightly("llama", {"tp": 2}, "main"),
    nightly("llama", {"pp": 2}, "0.3.1"),
    nightly("llama", {"tp": 2, "pp": 2, "vpp": 2}, "0.6.0"),
    nightly("llama in bfloat16", {"tp": 2, "pp": 2}, "0.6.0"),
    ("qwen3-moe, one pair for all experts", {"tp": 2, "ep": 2, "etp": 2}, "0.6.0"),
    nightly("qwen3-moe, one pair for all experts", {"ep": 2}, "0.4.2"),
    nightly("qwen3-moe, one pair for all experts", {"pp": 2}, "main"),
    nightly("qwen3-moe, a pair per expert", {"tp": 2, "ep": 2, "etp": 2}, "0.6.0"),
    nightly("qwen3-moe, a pair per expert", {"ep": 2}, "main"),
    nightly("qwen3-moe, sequential experts", {"ep": 2, "pp": 2}, "0.6.0"),
    nightly("deepseek", {"tp": 4}, "0.6.0"),
    ("deepseek", {"tp": 2, "pp": 2}, "main"),
    nightly("qwen3-next, output gate and shared experts", {"tp": 2, "ep": 2, "etp": 1}, "0.6.0"),
]

REFUSED = (
    "{folder} is damaged: model.layers.2.mlp.up_proj is not what was saved (1 of 29 linears have another fingerprint "
    "than in adapters.json). Take another copy of the checkpoint."
)


@cache
def of_one_rank(name: str) -> tuple[Path, FoundFingerprint]:
    kind, options = MODELS[name]
    folder = Path(mkdtemp())
    on_ranks(Layout(), "hf_tasks:export", kind, {}, str(folder / "peft"), options)
    return folder, fingerprint_of(folder / "peft")


@pytest.mark.parametrize(("name", "axes", "bridge"), CASES)
def test_it_depends_on_no_layout_and_no_form(name: str, axes: dict[str, Any], bridge: str, tmp_path: Path) -> None:
    kind, options = MODELS[name]
    on_ranks(Layout(**axes), "fingerprint_tasks:write", kind, axes, str(tmp_path), options, bridge)
    found = {form: fingerprint_of(tmp_path / form) for form in ("clora", "bridge", "peft", "again")}
    _, first = of_one_rank(name)
    assert {form: one.sha256 for form, one in found.items()} == dict.fromkeys(found, first.sha256)
    # Computed from the live tensors of all ranks, and once more from the files.
    assert {one.recorded for one in found.values()} == {first.sha256}
    assert {one.dtypes for one in found.values()} == {first.dtypes}
    assert {one.linears for one in found.values()} == {first.linears}
    # A checkpoint of Megatron-Bridge itself is the same without the file of clora.
    (tmp_path / "bridge" / "adapters.json").unlink()
    alone = fingerprint_of(tmp_path / "bridge", alpha=6) if "next" not in name else first
    assert alone.sha256 == first.sha256


@pytest.mark.nightly
def test_the_rows_of_mamba_are_those_of_the_export(tmp_path: Path) -> None:
    kind, options = MODELS["nemotron-h, Mamba"]
    on_ranks(Layout(tp=2), "fingerprint_tasks:write", kind, {"tp": 2}, str(tmp_path), options, "0.6.0")
    assert fingerprint_of(tmp_path / "clora").sha256 == fingerprint_of(tmp_path / "peft").sha256


def test_a_flipped_bit_is_refused_by_all_ranks_of_another_layout(tmp_path: Path) -> None:
    kind, options = MODELS["llama"]
    on_ranks(Layout(tp=2), "fingerprint_tasks:write", kind, {"tp": 2}, str(tmp_path), options, "0.6.0")
    key = "decoder.layers.mlp.linear_fc1.adapter.adapter_up.linear_out.weight"
    for form in ("clora", "bridge"):
        flip_a_bit(tmp_path / form, key, layer=2)
        ranks = on_ranks(Layout(pp=2), "fingerprint_tasks:load", kind, {"pp": 2}, str(tmp_path / form), options)
        assert {rank["message"] for rank in ranks} == {REFUSED.format(folder=tmp_path / form)}
        assert all(rank["zero"] == rank["factors"] > 0 for rank in ranks)
        found = fingerprint_of(tmp_path / form)
        assert found.differs == ("model.layers.2.mlp.up_proj",)
        assert found.sha256 != found.recorded


def flip_a_bit(folder: Path, key: str, layer: int) -> None:
    """Change the lowest bit of a value of the tensor `key`."""
    piece = next(piece for piece in read_places(folder, key)[key].pieces if piece.start[0] == layer)
    file = folder / piece.file
    data = bytearray(file.read_bytes())
    stored = BytesIO(data[piece.offset : piece.offset + piece.length])
    values = torch.load(stored, weights_only=True).contiguous().numpy().tobytes()
    data[data.index(values, piece.offset)] ^= 1
    file.write_bytes(data)
