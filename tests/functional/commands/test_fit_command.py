"""`clora-inspect fit`: a table for people, JSON for programs, and what a user gets wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from command_line import CommandLine


SMALL = (
    "--set model.num_layers=4 --set model.hidden_size=64 --set model.ffn_hidden_size=128 "
    "--set model.num_attention_heads=4 --set model.num_query_groups=2 --dim 4"
)


def test_layouts_are_listed_cheapest_first_with_what_was_assumed(clora_inspect: CommandLine) -> None:
    result = clora_inspect(*f"fit llama3-8b {SMALL} --gpus 4 --seq-length 64 --rows 3".split())
    assert result.status == 0, result.err
    assert "llama3-8b on 4 GPUs of 80 GiB: the 3 cheapest that fit, of " in result.out
    assert "more, which take longer or do not fit: --rows 6 or -f json" in result.out
    assert "4 rows of 64 tokens a step" in result.out
    assert "no parallelism, needs" in result.out
    assert "Ctrl-C ends it." in result.err


def test_all_layouts_are_counted_where_all_are_asked_for(clora_inspect: CommandLine) -> None:
    words = f"fit llama3-8b {SMALL} --gpus 1 --seq-length 64 --recompute full --recompute none"
    result = clora_inspect(*words.split())
    assert result.status == 0, result.err
    assert "llama3-8b on 1 GPU of 80 GiB: 2 fit, of 2 layouts" in result.out
    assert "--rows" not in result.out
    assert "selective" not in result.out
    assert "\n1 row of 64 tokens a step" in result.out


def test_json_lists_every_layout_and_their_sum_is_every_candidate(clora_inspect: CommandLine) -> None:
    words = f"fit llama3-8b {SMALL} --gpus 2 --seq-length 64 --recompute none --recompute full -f json"
    result = clora_inspect(*words.split())
    assert result.status == 0, result.err
    document = json.loads(result.out)
    assert document["gpus"] == 2
    layouts = document["layouts"]
    assert {"tp", "pp", "cp", "vpp", "dp", "recompute", "micro_batch_size", "peak_bytes"} <= layouts[0].keys()
    seconds = [layout["seconds"] for layout in layouts]
    assert seconds == sorted(seconds)
    assert all(layout["peak_bytes"] <= document["gpu_memory_bytes"] for layout in layouts)
    assert len(layouts) + document["too_large"] == document["candidates"]
    assert document["not_looked_at"] == 0
    few = json.loads(clora_inspect(*words.split(), "--rows", "2").out)
    assert few["layouts"] == layouts[:2]
    assert few["not_looked_at"] == len(layouts) - 2
    assert few["measured"] <= document["measured"]


def test_where_nothing_fits_it_says_by_how_much_and_what_helps(clora_inspect: CommandLine) -> None:
    words = f"fit llama3-8b {SMALL} --gpus 1 --seq-length 1024"
    peak = json.loads(clora_inspect(*words.split(), "-f", "json").out)["smallest"]["peak_bytes"]
    result = clora_inspect(*words.split(), "--gpu-memory-gib", str((peak - 1000) / (1 << 30)))
    assert result.status == 1
    assert "Nothing fits. What needs least needs" in result.out
    assert ", 1000 B more than a GPU has: --tp 1" in " ".join(result.out.split())
    assert "It fits with --gpu-memory-gib" in result.out
    assert "or --gpus 2: --tp" in " ".join(result.out.split())
    enough = result.out.split("It fits with --gpu-memory-gib ")[1].split(",")[0]
    assert clora_inspect(*words.split(), "--gpu-memory-gib", enough).status == 0


def test_a_layout_that_does_not_fit_comes_with_the_smallest_change(clora_inspect: CommandLine) -> None:
    words = f"fit llama3-8b {SMALL} --gpus 2 --seq-length 1024 --rows 1".split()
    own = json.loads(clora_inspect(*words, "-f", "json").out)["own_layout"]
    limit = str((own["peak_bytes"] - 1) / (1 << 30))
    result = clora_inspect(*words, "--gpu-memory-gib", limit)
    assert result.status == 0
    text = " ".join(result.out.split())
    assert "The job's own layout, no parallelism, needs" in text
    change = text.split("and does not fit. Smallest change: ")[1].split(" (")[0].split()
    assert len(change) == 2
    # The change is options of `plan`.
    option = change if change[0] not in ("--micro-batch-size", "--recompute") else [*change, "--memory"]
    assert clora_inspect("plan", "llama3-8b", *SMALL.split(), *option).status == 0
    assert "cannot run on --gpus 2: it takes a multiple of 4 GPUs." in clora_inspect(*words, "--tp", "4").out


FUNCTION = """\
def build(**options):
    raise AssertionError("fit calls nothing")
"""
RUN = Path(__file__).parents[2] / "clora_inspect" / "runs" / "llama.yaml"
RUN_FIELDS = {
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 16,
    "vocab_size": 256,
    "tensor_model_parallel_size": 2,
    "pipeline_model_parallel_size": 1,
}
CONFIG = """\
[jobs.tuned]
model = "llama3-8b"
gpu-memory-gib = 3
layouts.train = { tp = 2 }
workload = { seq_length = 128, micro_batch_size = 2, recompute = "full" }
set.model = { num_layers = 2, hidden_size = 64, ffn_hidden_size = 128, num_attention_heads = 4, num_query_groups = 2 }
"""
HF = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved_plan: Path) -> Path:
    """Write a JOB of each kind, and go there."""
    (tmp_path / "my_model.py").write_text(FUNCTION)
    (tmp_path / "run").mkdir()
    run = yaml.safe_load(RUN.read_text())
    run["model"] |= RUN_FIELDS
    run["train"] = {"micro_batch_size": 2, "global_batch_size": 8}
    run["dataset"] = {"seq_length": 64}
    (tmp_path / "run" / "run_config.yaml").write_text(yaml.safe_dump(run))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps(HF))
    (tmp_path / "plan.json").write_bytes(saved_plan.read_bytes())
    (tmp_path / "clora-inspect.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("job", "own"),
    [
        ("hf --seq-length 64", "no parallelism, needs"),
        ("hf/config.json --seq-length 64", "no parallelism, needs"),
        ("run", "tp2 sp, micro-batches of 2, needs"),
        ("tuned", "tp2 sp, micro-batches of 2, recompute full, needs"),
        ("tuned/train --tp 1", "no parallelism, micro-batches of 2, recompute full, needs"),
    ],
)
@pytest.mark.usefixtures("jobs")
def test_jobs_that_can_be_laid_out_anew(clora_inspect: CommandLine, job: str, own: str) -> None:
    result = clora_inspect(*f"fit {job} --gpus 2 --dim 4 --rows 1 --recompute none --global-batch-size 4".split())
    assert result.status == 0, result.err
    assert f"The job's own layout, {own}" in " ".join(result.out.split())


@pytest.mark.usefixtures("jobs")
def test_what_a_configured_job_says_is_taken_from_it(clora_inspect: CommandLine) -> None:
    document = json.loads(
        clora_inspect(
            *["fit", "tuned", "--gpus", "1", "--dim", "4", "--tp", "1", "--recompute", "none", "-f", "json"]
        ).out
    )
    assert document["seq_length"] == 128
    assert document["gpu_memory_bytes"] == 3 << 30
    run = json.loads(
        clora_inspect(
            *["fit", "run", "--gpus", "2", "--dim", "4", "--rows", "1", "--recompute", "none", "-f", "json"]
        ).out
    )
    assert (run["rows"], run["seq_length"]) == (8, 64)


@pytest.mark.parametrize(
    ("job", "reason", "way_out"),
    [
        ("my_model.py:build", "makes its own config", "clora-inspect plan my_model.py:build --memory --tp N"),
        ("bridge:hf", "Megatron-Bridge converts bridge:hf", "clora-inspect plan bridge:hf --memory --tp N"),
        ("plan.json", "is a saved plan", "Name a job or a model."),
        ("llama3-8b --implementation megatron-bridge", "counts clora's adapters", "leave --implementation out"),
        ("llama3-8b --device cpu", "measures layers on the meta device", "leave --device out"),
        ("nosuch", "no built-in architecture", "Configured: tuned"),
    ],
)
@pytest.mark.usefixtures("jobs")
def test_jobs_that_cannot_are_refused_with_a_way_out(
    clora_inspect: CommandLine, job: str, reason: str, way_out: str
) -> None:
    result = clora_inspect("fit", *job.split(), "--gpus", "2")
    assert result.status == 2
    assert reason in result.err
    assert way_out in result.err
    assert not result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fit llama3-8b", "--gpus"),
        ("fit llama3-8b --gpus 0", "--gpus"),
        ("fit llama3-8b --gpus 8 --gpu-memory-gib 0", "--gpu-memory-gib"),
        ("fit llama3-8b --gpus 64 --global-batch-size 1 --seq-length 1", "cannot be spread over 64 GPUs"),
        ("fit llama3-8b --gpus 8 --recompute some", "'some' cannot be tried: write none, selective[:MODULES] or full."),
        ("fit llama3-8b --gpus 8 --recompute full:block:4", "layers are put together one by one"),
        ("fit llama3-8b --gpus 2 --recompute selective:nosuch", "nosuch"),
    ],
)
def test_mistakes_are_named(clora_inspect: CommandLine, words: str, message: str) -> None:
    result = clora_inspect(*words.split())
    assert result.status == 2
    assert message in result.err


def test_control_c_ends_it_without_a_traceback(clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    from clora_inspect.fit import measure

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.Measurements, "_measured", interrupted)
    result = clora_inspect(*f"fit llama3-8b {SMALL} --gpus 2 --seq-length 64".split())
    assert result.status == 130
    assert "Traceback" not in result.err
    assert not result.out
