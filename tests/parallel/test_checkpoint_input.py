"""`check --checkpoint`: a job beside a checkpoint that real ranks have saved, of this model or of
another.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gloo import on_ranks

from clora_inspect.cli import main
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Found = Callable[..., tuple[int, dict[str, Any]]]

SIZES = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "vocab_size": 256,
    "max_sequence_length": 64,
}
DENSE = {**SIZES, "num_query_groups": 2}
EXPERTS = {**DENSE, "num_moe_experts": 4, "moe_ffn_hidden_size": 16}
LATENT = {
    **{name: value for name, value in EXPERTS.items() if name != "kv_channels"},
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_head_dim": 8,
    "qk_pos_emb_head_dim": 4,
    "v_head_dim": 8,
    "moe_router_num_groups": None,
    "moe_router_group_topk": None,
    "moe_router_topk": 2,
    "moe_shared_expert_intermediate_size": 16,
    "num_query_groups": 4,
}
MAMBA = {
    **DENSE,
    "num_layers": 3,
    "hybrid_override_pattern": "M*-",
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_num_groups": 2,
    "mamba_state_dim": 8,
}
ATTENTION = {"target_modules": ["linear_q", "linear_proj"], "dim": 4, "alpha": 8}


@dataclass(frozen=True)
class Saved:
    """A checkpoint: what was saved, and on which layout."""

    model: str
    fields: dict[str, Any]
    layout: Layout
    lora: dict[str, Any] = field(default_factory=dict)
    holds: str = "base"


SAVED = {
    "dense": Saved("llama3-8b", DENSE, Layout(tp=2)),
    "experts": Saved("mixtral-8x7b", EXPERTS, Layout(ep=2)),
    "mamba": Saved("nemotron-h-8b", MAMBA, Layout(tp=2)),
    "latent": Saved("deepseek-v3", {**LATENT, "moe_layer_freq": [0, 1]}, Layout(tp=2)),
    "mtp": Saved("deepseek-v3", {**LATENT, "moe_layer_freq": [0, 1], "mtp_num_layers": 1}, Layout(pp=2)),
    "tied": Saved("qwen2.5-0.5b", DENSE, Layout(pp=2)),
    "adapters": Saved("llama3-8b", DENSE, Layout(tp=2), ATTENTION, "adapters"),
    "per layer": Saved("llama3-8b", DENSE, Layout(pp=2), holds="a key for each layer"),
    "both": Saved("llama3-8b", DENSE, Layout(pp=2), ATTENTION, "both"),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save all of them, each once."""
    root_folder = tmp_path_factory.mktemp("checkpoints")
    for name, saved in SAVED.items():
        axes = {name: value for name, value in msgspec.structs.asdict(saved.layout).items() if value is not None}
        folder = str(root_folder / name)
        task = "checkpoint_tasks:save_job"
        on_ranks(saved.layout, task, saved.model, saved.fields, axes, folder, saved.lora, saved.holds)
    return {name: root_folder / name for name in SAVED}


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> Found:
    """Run a check; return its exit status and its findings of this family by code."""

    def run(model: str, fields: dict[str, Any], checkpoint: Path, *options: str) -> tuple[int, dict[str, Any]]:
        arguments = ["check", model, "--isolated", "--no-snapshot", "--no-cache", "--select", "CL62", "-f", "json"]
        for name, value in fields.items():
            arguments += ["--set", f"model.{name}={json.dumps(value)}"]
        status = main([*arguments, "--checkpoint", str(checkpoint), *options])
        report = json.loads(capsys.readouterr().out)
        return status, {finding["code"]: finding for finding in report["findings"]}

    return run


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dense", ()),
        ("dense", ("--tp", "4", "--pp", "2")),
        ("experts", ("--tp", "2", "--ep", "4", "--etp", "1")),
        ("experts", ("--set", "model.moe_grouped_gemm=false")),
        ("mamba", ()),
        ("latent", ("--ep", "2")),
        ("mtp", ("--tp", "2")),
        ("tied", ("--tp", "2")),
        ("per layer", ("--tp", "2")),
        ("both", ("--tp", "2", "--set", 'lora.target_modules=["linear_q","linear_proj"]', "--dim=4", "--alpha=8")),
        ("adapters", ("--pp", "2", "--set", 'lora.target_modules=["linear_q","linear_proj"]', "--dim=4", "--alpha=8")),
    ],
)
def test_a_job_loads_its_own_checkpoint_on_any_layout(
    checkpoints: dict[str, Path], found: Found, name: str, options: tuple[str, ...]
) -> None:
    saved = SAVED[name]
    assert found(saved.model, saved.fields, checkpoints[name], *options) == (0, {})


@pytest.mark.parametrize(
    ("name", "fields", "code", "words"),
    [
        ("dense", {"num_layers": 3}, "CL623", "it has 2 layers: --set model.num_layers=2"),
        ("dense", {"num_query_groups": 4}, "CL623", "num_query_groups"),
        ("dense", {"ffn_hidden_size": 64}, "CL623", "ffn_hidden_size"),
        ("dense", {"hidden_size": 64}, "CL623", "hidden_size"),
        ("dense", {"add_qkv_bias": True}, "CL621", "linear_qkv.bias"),
        ("dense", {"share_embeddings_and_output_weights": True}, "CL622", "share_embeddings_and_output_weights=false"),
        ("dense", {"vocab_size": 1024}, "CL624", "256 rows"),
        ("tied", {"share_embeddings_and_output_weights": False}, "CL621", "output_layer.weight"),
        ("latent", {"num_layers": 1, "moe_layer_freq": [0]}, "CL622", "it has more layers: 1 are left behind"),
        ("latent", {"num_layers": 3, "moe_layer_freq": [0, 1, 1]}, "CL621", "layers 2 are missing"),
        ("per layer", {"num_layers": 3}, "CL621", "layers 2 are missing"),
        ("per layer", {"num_layers": 1}, "CL622", "it has more layers: 1 are left behind"),
        ("latent", {"kv_lora_rank": 8}, "CL623", "kv_lora_rank"),
        ("latent", {"mtp_num_layers": 1}, "CL621", "mtp.layers.0"),
        ("experts", {"num_moe_experts": 8}, "CL623", "num_moe_experts"),
        ("mamba", {"mamba_state_dim": 16}, "CL623", "mamba_state_dim"),
    ],
)
def test_the_checkpoint_of_another_model_is_found(
    checkpoints: dict[str, Path], found: Found, name: str, fields: dict[str, Any], code: str, words: str
) -> None:
    saved = SAVED[name]
    status, findings = found(saved.model, {**saved.fields, **fields}, checkpoints[name])
    assert status == (0 if code == "CL624" else 1)
    assert code in findings
    assert words in json.dumps(findings[code])


def test_multi_token_prediction_may_be_left_behind(checkpoints: dict[str, Path], found: Found) -> None:
    saved = SAVED["latent"]
    status, findings = found(saved.model, saved.fields, checkpoints["mtp"])
    assert (status, list(findings), findings["CL622"]["severity"]) == (0, ["CL622"], "warning")


def test_another_family_is_another_model(checkpoints: dict[str, Path], found: Found) -> None:
    status, findings = found("deepseek-v3", SAVED["latent"].fields, checkpoints["mamba"])
    assert status == 1
    assert findings["CL621"]["help"] == "it is the checkpoint of another model"


@pytest.mark.parametrize("name", ["adapters", "both"])
@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--target-modules", "linear_q", "--dim=4", "--alpha=8"), "CL625", "has 2 tensors of adapters"),
        (("--target-modules", "linear_q,linear_proj,linear_fc2", "--dim=4"), "CL625", "lacks 2"),
        (("--target-modules", "linear_q,linear_proj", "--dim=8", "--alpha=16"), "CL625", "use the dim"),
        (("--target-modules", "linear_q,linear_proj", "--dim=4", "--alpha=32"), "CL626", "alpha 8 and dim 4"),
    ],
)
def test_other_adapters_are_found(
    checkpoints: dict[str, Path], found: Found, name: str, options: tuple[str, ...], code: str, words: str
) -> None:
    status, findings = found("llama3-8b", DENSE, checkpoints[name], *options)
    # Only `save_adapters` writes down how the adapters are scaled.
    if code == "CL626" and name == "both":
        assert (status, findings) == (0, {})
        return
    assert (status, list(findings)) == (1, [code])
    assert words in json.dumps(findings[code])


def test_the_latest_iteration_is_taken_and_named(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoints["dense"], tmp_path / "iter_0000010")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("10\n")
    (tmp_path / "clora-inspect.toml").write_text(
        f'[jobs.a]\nmodel = "llama3-8b"\ncheckpoint = "."\nset.model = {{ {_toml({**DENSE, "num_layers": 3})} }}\n'
    )
    arguments = ["-C", str(tmp_path), "check", "--no-snapshot", "--select", "CL62", "-f", "json"]
    assert main(arguments) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert "iter_0000010" in finding["message"]
    assert finding["location"]["line"] == 3


def _toml(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in fields.items())
