"""Adapter checkpoints between clora and the real Megatron-Bridge, bit for bit, on gloo ranks.

CI has release 0.3.1. `make upstream-checkpoints` takes the release of a source tree: 0.4.2, 0.5.1,
0.6.0 and main of 2026-08-22 passed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from gloo import on_ranks as on_ranks_of

from clora_inspect.checkpoint.fingerprint import fingerprint_of
from clora_inspect.job.layout import Layout

RELEASE = os.environ.get("CLORA_BRIDGE_RELEASE", "0.3.1")
IS_OLD = RELEASE.startswith("0.3.")
HAS_EXPERT_AXIS = RELEASE == "main" or int(RELEASE.split(".")[1]) >= 5
ALL: dict[str, Any] = {}
PER_EXPERT: dict[str, Any] = {"share_expert_adapters": False}
ATTENTION: dict[str, Any] = {"target_modules": ["linear_q", "linear_k", "linear_v", "linear_proj"]}
WITH_PLAIN: dict[str, Any] = {"target_modules": ["linear_fc1_up", "linear_fc1_gate", "extra"]}


def on_ranks(axes: dict[str, int], task: str, kind: str, *args: Any) -> list[Any]:
    # Importing Megatron-Bridge takes its time on a busy machine.
    return on_ranks_of(Layout(**axes), f"bridge_tasks:{task}", kind, axes, *args, timeout_s=400.0)


CASES = [
    # kind, layout of saving, layouts of loading with clora, LoRA, with a linear of torch's
    pytest.param("gqa", {"tp": 2}, [{}, {"tp": 2}, {"tp": 4}], WITH_PLAIN, True, id="tp2 and a plain linear"),
    pytest.param("gqa", {"tp": 4}, [{"tp": 2}], ALL, False, id="tp4", marks=pytest.mark.nightly),
    pytest.param("gqa", {}, [{"tp": 2}], ALL, False, id="tp1", marks=pytest.mark.nightly),
    pytest.param("gqa", {"tp": 2, "sp": True}, [{"tp": 2, "sp": True}], ALL, False, id="sp", marks=pytest.mark.nightly),
    pytest.param(
        "sequential-experts", {"tp": 2, "ep": 2, "etp": 2}, [{}, {"ep": 2}], ALL, False, id="sequential experts",
        marks=[pytest.mark.nightly, pytest.mark.skipif(not HAS_EXPERT_AXIS, reason="releases before 0.5 cannot save them themselves")],
    ),
    pytest.param("mla", {"tp": 2}, [{}], ALL, False, id="latent attention", marks=pytest.mark.nightly),
    pytest.param(
        "grouped-experts", {"tp": 2, "ep": 2, "etp": 1}, [{}, {"tp": 2}, {"ep": 2}], ATTENTION if IS_OLD else ALL,
        False, id="grouped experts",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "saved_at", "loaded_at", "lora", "plain"), CASES)
def test_what_megatron_bridge_saves_is_loaded_bit_for_bit_on_any_layout(
    tmp_path: Path,
    installed: list[str],
    kind: str,
    saved_at: dict[str, int],
    loaded_at: list[dict[str, int]],
    lora: dict[str, Any],
    plain: bool,
) -> None:
    folder = str(tmp_path / "saved")
    on_ranks(saved_at, "save", kind, folder, installed, lora, plain)
    # Megatron-Bridge itself agrees on the layout of saving.
    for counted in on_ranks(saved_at, "load", kind, folder, installed, lora, plain):
        assert not counted["wrong"]
    mixed_up = saved_at.get("tp", 1) > 1 and lora is not ATTENTION and kind in ("gqa", "mla", "sequential-experts")
    for axes in loaded_at:
        ranks = on_ranks(axes, "load_by_clora", kind, folder, lora, plain)
        for counted in ranks:
            assert (counted["message"], counted["wrong"]) == ("", [])
            assert counted["equal"] > 0
        assert f"with tp = {saved_at.get('tp')}. The rows" in " ".join(ranks[0]["said"]) or not mixed_up
        assert bool(ranks[0]["said"]) == (mixed_up or (HAS_EXPERT_AXIS and kind == "grouped-experts"))


@pytest.mark.parametrize(("kind", "saved_at", "loaded_at", "lora", "plain"), CASES)
def test_what_clora_writes_for_a_release_is_loaded_by_it_bit_for_bit(
    tmp_path: Path,
    installed: list[str],
    kind: str,
    saved_at: dict[str, int],
    loaded_at: list[dict[str, int]],
    lora: dict[str, Any],
    plain: bool,
) -> None:
    folder = str(tmp_path / "saved")
    first, *_ = on_ranks(saved_at, "save_by_clora", kind, folder, RELEASE, lora, plain)
    assert first["refusal"] == ""
    assert f"is written as Megatron-Bridge {RELEASE} writes it" in first["said"][0]
    for counted in on_ranks(saved_at, "load", kind, folder, installed, lora, plain):
        assert not counted["wrong"]
        assert counted["equal"] > 0
    for counted in on_ranks(loaded_at[0], "load_by_clora", kind, folder, lora, plain):
        assert (counted["message"], counted["wrong"]) == ("", [])


@pytest.mark.parametrize(
    ("kind", "axes", "lora"),
    [
        pytest.param("gqa", {"tp": 2}, ALL, id="llama"),
        pytest.param("gqa", {"tp": 4}, ALL, id="llama tp4", marks=pytest.mark.nightly),
        pytest.param("mla", {"tp": 2}, ALL, id="deepseek", marks=pytest.mark.nightly),
        pytest.param(
            "grouped-experts", {"tp": 2, "ep": 2, "etp": 1}, ATTENTION if IS_OLD else ALL, id="qwen3-moe",
            marks=pytest.mark.nightly,
        ),
    ],
)  # fmt: skip
def test_what_megatron_bridge_saves_has_the_fingerprint_of_what_clora_saves(
    tmp_path: Path, installed: list[str], kind: str, axes: dict[str, int], lora: dict[str, Any]
) -> None:
    on_ranks(axes, "save_in_fp32", kind, str(tmp_path / "theirs"), installed, lora)
    on_ranks({}, "save_in_fp32", kind, str(tmp_path / "ours"), None, lora)
    theirs, ours = fingerprint_of(tmp_path / "theirs", alpha=32), fingerprint_of(tmp_path / "ours")
    assert theirs.sha256 == ours.sha256 == ours.recorded
    assert theirs.recorded is None
    assert fingerprint_of(tmp_path / "theirs", alpha=16).sha256 != ours.sha256


def test_who_reads_clora_s_own_form_is_told(tmp_path: Path) -> None:
    (answer,) = on_ranks({}, "save_by_clora", "gqa", str(tmp_path / "saved"), None, ALL, False)
    assert "Megatron-Bridge would mix them up with more than one tensor-parallel rank" in answer["said"][0]
    (answer,) = on_ranks({}, "save_by_clora", "gqa", str(tmp_path / "attention"), None, ATTENTION, False)
    assert answer["said"] == []


@pytest.mark.skipif(not IS_OLD, reason="newer releases adapt the experts' gate and up together")
def test_the_split_experts_of_0_3_are_refused_by_name_both_ways(tmp_path: Path, installed: list[str]) -> None:
    folder = str(tmp_path / "saved")
    on_ranks({}, "save", "grouped-experts", folder, installed, ALL, False)
    (counted,) = on_ranks({}, "load_by_clora", "grouped-experts", folder, ALL, False)
    assert "Megatron-Bridge 0.3 wrote it: it adapts gate and up of the routed experts one by one" in counted["message"]
    assert counted["zero"] == counted["equal"] + len(counted["wrong"])
    (answer,) = on_ranks({}, "save_by_clora", "grouped-experts", str(tmp_path / "own"), "0.3.1", ALL, False)
    assert "one by one" in answer["refusal"]
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("release", ["0.6.0", pytest.param("main", marks=pytest.mark.nightly)])
def test_experts_with_an_axis_are_written_and_read_on_another_layout(tmp_path: Path, release: str) -> None:
    folder = str(tmp_path / "saved")
    for answer in on_ranks({"ep": 2, "etp": 2}, "save_by_clora", "grouped-experts", folder, release, WITH_PLAIN, True):
        assert answer["refusal"] == ""
    for axes in ({}, {"ep": 2}):
        for counted in on_ranks(axes, "load_by_clora", "grouped-experts", folder, WITH_PLAIN, True):
            assert (counted["message"], counted["wrong"]) == ("", [])


def test_experts_with_adapters_of_their_own_are_not_one_shared_adapter(tmp_path: Path) -> None:
    folder = str(tmp_path / "saved")
    (answer,) = on_ranks({}, "save_by_clora", "grouped-experts", folder, None, PER_EXPERT, False)
    assert "mix them up with more than one tensor-parallel rank" not in " ".join(answer["said"])
    for counted in on_ranks({"ep": 2}, "load_by_clora", "grouped-experts", folder, ALL, False):
        assert "share_expert_adapters=False" in counted["message"]
        assert counted["zero"] == counted["equal"] + len(counted["wrong"])


@pytest.mark.parametrize("kind", ["shared-experts", pytest.param("mla", marks=pytest.mark.nightly)])
def test_megatron_bridge_takes_an_adapted_linear_for_what_its_base_is(installed: list[str], kind: str) -> None:
    for found in on_ranks(
        {"tp": 2, "ep": 2, "etp": 1} if kind == "shared-experts" else {"tp": 2}, "parallelism", kind, installed
    ):
        linears = {name: kinds for name, kinds in found.items() if len(kinds) == 2}
        assert len(linears) >= 9
        assert all(before == after for before, after in linears.values())
        assert {before for before, _ in linears.values()} == {"column", "row", "replicated"}
        layer = "decoder.layers.0"
        proj = f"{layer}.self_attention.linear_proj"
        assert (found[f"{proj}.adapter.linear_in"], found[f"{proj}.adapter.linear_out"]) == (["row"], ["column"])
        if kind == "shared-experts":
            # With etp = 1 every rank has the whole factors of its experts.
            assert found[f"{layer}.mlp.experts.linear_fc2.adapter.linear_in"] == ["row"]
