"""Every layout writes the folder that one rank writes, byte for byte, and imports it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from gloo import on_ranks
from safetensors.torch import load_file, save_file

from clora import HFAdapterError
from clora_inspect.checkpoint.fingerprint import fingerprint_of
from clora_inspect.job.layout import Layout

FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_fingerprint.json")
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gqa": ("gqa", {"model_type": "llama"}),
    "bfloat16": ("gqa", {"model_type": "llama", "dtype": "bfloat16"}),
    "layers by number": (
        "gqa",
        {"model_type": "qwen3", "targets": ["*.layers.{1..2}.*.linear_k", "*.layers.0.mlp.linear_fc1_up"]},
    ),
    "output layer alone": ("gqa", {"model_type": "llama", "targets": ["output_layer"]}),
    "mla": ("mla", {"model_type": "deepseek_v2"}),
    "sequential experts": ("sequential-experts", {"model_type": "qwen3_moe"}),
    "shared pair": ("grouped-experts", {"model_type": "mixtral"}),
    "pair per expert": ("grouped-experts", {"model_type": "qwen3_moe", "lora": {"share_expert_adapters": False}}),
    "output gate": ("shared-experts", {"model_type": "qwen3_next", "fields": {"attention_output_gate": True}}),
    "mamba": ("mamba", {"model_type": "nemotron_h", "targets": ["in_proj", "linear_proj"]}),
    "routers": ("grouped-experts", {"model_type": "mixtral", "targets": ["router", "linear_q"]}),
}
CASES: list[Any] = [
    ("gqa", {"tp": 2, "pp": 2, "vpp": 2}),
    ("gqa", {"tp": 4}),
    ("bfloat16", {"tp": 2, "pp": 2}),
    ("output layer alone", {"pp": 4}),
    ("layers by number", {"tp": 2, "sp": False}),
    ("mla", {"tp": 2, "pp": 2}),
    ("sequential experts", {"ep": 2, "pp": 2}),
    pytest.param("sequential experts", {"tp": 2, "ep": 2, "etp": 2}, marks=pytest.mark.nightly),
    ("shared pair", {"tp": 2, "ep": 2, "etp": 2}),
    pytest.param("shared pair", {"pp": 2, "ep": 2}, marks=pytest.mark.nightly),
    ("pair per expert", {"tp": 2, "ep": 2, "etp": 2}),
    pytest.param("pair per expert", {"pp": 2, "ep": 2}, marks=pytest.mark.nightly),
    ("output gate", {"tp": 2, "ep": 2, "etp": 1}),
    ("routers", {"tp": 2, "pp": 2}),
    ("mamba", {"tp": 2, "pp": 2}),
]


@cache
def of_one_rank(name: str) -> Path:
    """Return the folder that a model on one rank gives. Its four data-parallel copies write it
    once.
    """
    kind, options = OPTIONS[name]
    folder = Path(mkdtemp()) / "adapter"
    on_ranks(Layout(), "hf_tasks:export", kind, {}, str(folder), options, ranks=4)
    return folder


@pytest.mark.parametrize(("name", "axes"), CASES)
def test_a_folder_does_not_depend_on_the_layout(name: str, axes: dict[str, Any], tmp_path: Path) -> None:
    kind, options = OPTIONS[name]
    layout = Layout(**axes)
    reports = on_ranks(layout, "hf_tasks:export", kind, axes, str(tmp_path / "adapter"), options, ranks=4)
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]
    for file in FILES:
        assert (tmp_path / "adapter" / file).read_bytes() == (of_one_rank(name) / file).read_bytes()
    assert all(report == reports[0] for report in reports)
    assert reports[0]["linears"] == len(load_file(tmp_path / "adapter" / FILES[1])) / 2
    assert len(reports[0]["left_out"]) == (4 if name == "routers" else 0)
    filled = on_ranks(layout, "hf_tasks:filled_from", kind, axes, str(of_one_rank(name)), options, ranks=4)
    assert {rank["message"] for rank in filled} == {""}
    wrong = [name for rank in filled for name in rank["wrong"] if "router" not in name]
    assert wrong == []
    assert sum(rank["adapters"] for rank in filled) > 0


def test_the_fingerprint_knows_the_scale(tmp_path: Path) -> None:
    kind, options = OPTIONS["gqa"]
    options, axes = {**options, "lora": {"alpha": 7}}, {"tp": 4}
    on_ranks(Layout(**axes), "hf_tasks:export", kind, axes, str(tmp_path / "adapter"), options, ranks=4)
    found, of_one = (fingerprint_of(folder) for folder in (tmp_path / "adapter", of_one_rank("gqa")))
    assert found.sha256 != of_one.sha256
    assert found.linears == of_one.linears == 29


def test_a_pair_that_one_stage_misses_leaves_all_stages_as_they_were(tmp_path: Path) -> None:
    kind, options = OPTIONS["gqa"]
    tensors = load_file(of_one_rank("gqa") / FILES[1])
    (tmp_path / FILES[0]).write_bytes((of_one_rank("gqa") / FILES[0]).read_bytes())
    kept = {key: value for key, value in tensors.items() if "layers.3.self_attn.o_proj" not in key}
    save_file(kept, tmp_path / FILES[1])
    ranks = on_ranks(Layout(pp=4), "hf_tasks:filled_from", kind, {"pp": 4}, str(tmp_path), options)
    assert len({rank["message"] for rank in ranks}) == 1
    assert "has no pair for model.layers.3.self_attn.o_proj" in ranks[0]["message"]
    assert ranks[0]["message"].endswith("(rank 3 of 4)")
    assert all(rank["zero"] == rank["adapters"] > 0 for rank in ranks)


def test_a_pair_that_no_stage_takes_is_told_by_all(tmp_path: Path) -> None:
    kind, options = OPTIONS["gqa"]
    fewer = {**options, "targets": ["linear_q", "linear_k", "linear_v"]}
    ranks = on_ranks(Layout(pp=4), "hf_tasks:filled_from", kind, {"pp": 4}, str(of_one_rank("gqa")), fewer)
    assert len({rank["message"] for rank in ranks}) == 1
    assert "the model has no adapter there (17 of 29 pairs)" in ranks[0]["message"]
    assert all(rank["zero"] == rank["adapters"] > 0 for rank in ranks)


def test_a_folder_that_is_there_is_refused_on_every_rank(tmp_path: Path) -> None:
    kind, options = OPTIONS["gqa"]
    with pytest.raises(HFAdapterError, match=r"exists already and is not overwritten.*rank 0 of 4"):
        on_ranks(Layout(tp=4), "hf_tasks:export", kind, {"tp": 4}, str(tmp_path), options)
