"""A Megatron-Bridge job that adapts its model with `clora.bridge`, on gloo ranks.

Models, hooks, checkpoints and exports are those of Megatron-Bridge. CI has release 0.3.1; `make
upstream-jobs` takes the release of a source tree.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hf_tiny
import pytest
from gloo import on_ranks as on_ranks_of

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

RELEASE = os.environ.get("CLORA_BRIDGE_RELEASE", "0.3.1")
IS_OLD = RELEASE.startswith("0.3.")
KINDS = ("llama", "qwen3_moe", "deepseek_v3")


def on_ranks(axes: dict[str, int], task: str, *args: Any) -> list[Any]:
    # Importing Megatron-Bridge takes its time on a busy machine.
    return on_ranks_of(Layout(**axes), task, *args, timeout_s=500.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Kind -> folder of a small Hugging Face model."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    # Megatron-Bridge has no layer without experts in a Qwen3-MoE model.
    name, fields = hf_tiny.MODELS["qwen3_moe"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(hf_tiny.MODELS, "qwen3_moe", (name, {**fields, "mlp_only_layers": []}))
        with quiet():
            for kind, folder in folders.items():
                hf_tiny.hugging_face(kind, folder).save_pretrained(folder)
    return {kind: str(folder) for kind, folder in folders.items()}


def test_the_configs_of_megatron_bridge_take_the_class(tmp_path: Path, installed: list[str]) -> None:
    (found,) = on_ranks({}, "bridge_config_tasks:configuration", str(tmp_path), installed)
    assert "_target_: clora.bridge.CanonicalLoRA" in found.pop("yaml")
    # Megatron-Bridge keeps what can be called, as any PEFT, out of OmegaConf.
    assert found.pop("excluded") == ["root.peft"]
    assert found.pop("overridden") == (True, 12, ["linear_k"])
    assert found.pop("state") == []
    assert {name: value for name, value in found.items() if value is not True} == {}


def test_the_gate_is_called_on_the_model_of_the_setup(tmp_path: Path, installed: list[str]) -> None:
    (found,) = on_ranks({}, "bridge_config_tasks:gated", str(tmp_path), installed)
    assert found["same"][0] == 0
    assert "gate: 1 rank as expected by" in found["same"][1]
    assert found["other"][0] == 1
    assert "linear_proj: rank 4" in found["other"][1]


WITH_PARTS: list[dict[str, Any]] = [
    {"target_modules": ["linear_q", "linear_v", "linear_fc1_gate"]},
    {"target_modules": ["linear_k", "linear_fc1_up"]},
]
PER_EXPERT: list[tuple[str, dict[str, Any]]] = [("qwen3_moe", {"share_expert_adapters": False})]
EXPORTS = [
    pytest.param({}, [("llama", fields) for fields in WITH_PARTS], id="some parts"),
    pytest.param({"tp": 2}, [("llama", {}), ("llama", WITH_PARTS[0]), ("deepseek_v3", {})], id="tp2"),
    pytest.param(
        {"ep": 2},
        [("qwen3_moe", {}), ("deepseek_v3", {}), *([] if RELEASE.startswith(("0.3.", "0.4.")) else PER_EXPERT)],
        id="ep2",
    ),
]


@pytest.mark.parametrize(("axes", "cases"), EXPORTS)
def test_exports_hold_every_adapter_bit_for_bit(
    models: dict[str, str], installed: list[str], axes: dict[str, int], cases: list[tuple[str, dict[str, Any]]]
) -> None:
    named = [(kind, models[kind], fields) for kind, fields in cases]
    for rank in on_ranks(axes, "bridge_job_tasks:exports", axes, named, installed):
        for compared in rank:
            assert (compared["unlike theirs"], compared["unlike the merge"]) == ([], [])
            assert compared["with an adapter"] == compared["pairs"] > 0
            assert compared["folder"] in ({0} if IS_OLD else {0, 2 * compared["pairs"] + 1})
            assert compared["named as a base"] >= compared["pairs"]


def test_a_merged_export_without_the_adapters_is_refused(models: dict[str, str], installed: list[str]) -> None:
    (said,) = on_ranks({}, "bridge_job_tasks:refusals", models["llama"], models["qwen3_moe"], installed)
    assert "was adapted by clora.CanonicalLoRA, and Megatron-Bridge would export it without" in said["plain"]
    assert "4 of 4 adapted linears would be exported without their adapters" in said["old tasks"]
    assert "Make conversion_tasks after surgery" in said["old tasks"]
    assert "clora.unmerge_adapters(model)" in said["merged"]
    if RELEASE.startswith(("0.3.", "0.4.")):
        assert "Call clora.merge_and_unload(model) instead" in said["LoRAMerge"]
        assert "exports only experts that share one" in said["per expert"]
    assert "an output layer whose weight is tied" in said["tied"]
    assert (said["none"], said["not walked"]) == ("", "[]")


def test_checkpoints_of_both_are_loaded_by_megatron_bridge_s_own_loader(
    tmp_path: Path, models: dict[str, str], installed: list[str]
) -> None:
    on_ranks({"tp": 2}, "bridge_job_tasks:saves", "llama", {"tp": 2}, models["llama"], installed, str(tmp_path))
    for axes in ({"tp": 2}, {}):
        for found in on_ranks(
            axes, "bridge_job_tasks:resumes", "llama", axes, models["llama"], installed, str(tmp_path)
        ):
            assert (found["bridge"], found["clora"]) == ([], [])
            # gate and up of two layers, without what clora.bridge adds to the loader
            assert len(found["unextended"]) == 4
            assert all(".mlp.linear_fc1.adapter." in name for name in found["unextended"])
            assert "checkpoint.load_optim=False" in found["optimizer"]
            assert "adapt the model with the target_modules, dim" in found["other"]
