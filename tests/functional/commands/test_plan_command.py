"""`clora-inspect plan`: its stdout, its stderr and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import bare_environment, own_process

from clora_inspect.exit_code import ExitCode
from clora_inspect.machine import quiet

if TYPE_CHECKING:
    from command_line import CommandLine

GOLDEN = Path(__file__).parents[1] / "golden"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
"""Set it to write the golden files anew; then read the diff."""

GOLDEN_RUNS = {
    "llama3-8b.txt": ("llama3-8b", "--tp", "4", "--pp", "2", "--dim", "16", "--alpha", "32"),
    "deepseek-v3.txt": ("deepseek-v3", "--tp", "8", "--pp", "16", "--ep", "64", "--etp", "1"),
    "qwen2.5-0.5b.json": (
        "qwen2.5-0.5b",
        "--set",
        "model.num_layers=1",
        "--tp",
        "2",
        "--target-modules",
        "linear_q,linear_fc2",
        "-f",
        "json",
    ),
    "llama3-8b-missed.txt": ("llama3-8b", "--target-modules", "linear_q,*.mlp.linear_fc1_up", "--only", "missed"),
    "mixtral-typo.txt": ("mixtral-8x7b", "--ep", "4", "--target-modules", "linear_fc2,linear_fc1_gat", "--ascii"),
}


@pytest.mark.parametrize("name", GOLDEN_RUNS)
def test_output_is_as_in_the_golden_file(clora_inspect: CommandLine, name: str) -> None:
    out = _without_versions(clora_inspect("plan", *GOLDEN_RUNS[name]).out)
    path = GOLDEN / name
    if UPDATE:
        path.write_text(out, encoding="utf-8")
    assert out == path.read_text(encoding="utf-8")


def _without_versions(out: str) -> str:
    """Versions change with the machine, and are tested elsewhere."""
    if not out.startswith("{"):
        return out
    document = json.loads(out)
    document["versions"] = dict.fromkeys(document["versions"], "...")
    return json.dumps(document, indent=1) + "\n"


def test_the_trainable_line_is_hugging_faces(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plan", "llama3-8b", "--dim", "16")
    assert "trainable params: 41,943,040 || all params: 8,072,204,288 || trainable%: 0.5196" in ran.out
    assert ran.out.endswith("Plan: 224 to add, 0 to change, 0 to remove. Nothing was modified.\n")
    assert (ran.status, ran.err) == (ExitCode.OK, "")


def test_json_is_the_contract(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plan", "llama3-8b", "--tp", "2", "--pp", "2", "--world-size", "16", "-f", "json")
    document = json.loads(ran.out)
    assert document["schema"] == 1
    assert set(document) >= {
        "versions",
        "job",
        "lora",
        "layout",
        "totals",
        "rank_classes",
        "unmatched_targets",
        "findings",
    }
    assert set(document["totals"]) >= {"base_params", "trainable_params", "placements", "wrapped_modules"}
    first, second = document["rank_classes"]
    assert first["members"] == [[0, 7]]
    assert second["members"] == [[8, 15]]
    keys = (
        "count",
        "pp",
        "vpp",
        "ep",
        "etp",
        "base_params",
        "trainable_params",
        "wrapped_modules",
        "placements",
        "skipped",
    )
    assert set(first) >= set(keys)
    placement = next(one for one in second["placements"] if one["part"] == "q")
    expected = {
        "module": "decoder.layers.0.self_attention.linear_qkv",
        "global_layer": 16,
        "base_class": "TELayerNormColumnParallelLinear",
        "wrapper": "LoRALinearSplitQKV",
        "adapter_class": "ParallelLinearAdapter",
        "dim": 32,
        "alpha": 32,
        "a_shape": [16, 4096],
        "b_shape": [2048, 32],
        "params": 16 * 4096 + 2048 * 32,
        "target": "linear_q",
    }
    assert {name: placement[name] for name in expected} == expected
    assert {"module", "class", "reason", "by"} <= set(second["skipped"][0])
    assert (document["unmatched_targets"], document["findings"]) == ([], [])


def test_every_option_reaches_the_plan(clora_inspect: CommandLine) -> None:
    words = (
        *("qwen3-30b-a3b", "--tp", "2", "--pp", "2", "--cp", "2", "--ep", "4", "--etp", "1", "--vpp", "2", "--no-sp"),
        *("--world-size", "16", "--dim", "16", "--alpha", "8", "--exclude-modules", "linear_proj,*.linear_q"),
        *(
            "--set",
            "lora.dropout=0.25",
            "--set",
            "lora.share_expert_adapters=false",
            "--set",
            "lora.dropout_position=post",
        ),
        *("--set", "model.num_layers=4", "--device", "meta"),
    )
    document = json.loads(clora_inspect("plan", *words, "-f", "json").out)
    assert document["layout"] == {"tp": 2, "pp": 2, "vpp": 2, "cp": 2, "ep": 4, "etp": 1, "sp": False, "world_size": 16}
    lora = {
        "dim": 16,
        "alpha": 8.0,
        "target_modules": [],
        "exclude_modules": ["linear_proj", "*.linear_q"],
        "dropout": 0.25,
        "share_expert_adapters": False,
        "dropout_position": "post",
    }
    assert {name: document["lora"][name] for name in lora} == lora
    assert document["model"]["num_layers"] == 4
    excluded = {
        skip["by"]
        for rank_class in document["rank_classes"]
        for skip in rank_class["skipped"]
        if skip["reason"] == "excluded"
    }
    assert excluded == {"linear_proj", "*.linear_q"}


def test_the_environment_sets_options_and_the_command_line_beats_it(
    clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TP": "2", "DIM": "8", "FORMAT": "json", "SET": "model.num_layers=2\nlora.alpha=3"}.items():
        monkeypatch.setenv(f"CLORA_INSPECT_{name}", value)
    document = json.loads(clora_inspect("plan", "qwen2.5-0.5b", "--dim", "4").out)
    said = document["layout"]["tp"], document["lora"]["dim"], document["lora"]["alpha"], document["model"]["num_layers"]
    assert said == (2, 4, 3, 2)


def test_a_wrong_value_in_the_environment_is_blamed_on_it(
    clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLORA_INSPECT_TP", "two")
    ran = clora_inspect("plan", "llama3-8b")
    assert (ran.status, "CLORA_INSPECT_TP" in ran.err) == (ExitCode.USAGE, True)


def test_a_plan_is_saved_whole_and_shown_again(clora_inspect: CommandLine, tmp_path: Path) -> None:
    words = ("plan", "qwen2.5-0.5b", "--set", "model.num_layers=2")
    path = tmp_path / "plan.json"
    path.write_text("an older plan")
    saved = clora_inspect(*words, "-o", str(path))
    assert (saved.status, saved.out, saved.err) == (0, "", f"Wrote {path}\n")
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
    again = clora_inspect("plan", str(path))
    assert again.out == clora_inspect(*words).out
    assert clora_inspect("plan", str(path), "-f", "json").out == path.read_text()


def test_a_typo_shows_the_plan_and_exits_with_2(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plan", "llama3-8b", "--target-modules", "linear_q,linear_fc1_gat", "-f", "json")
    assert ran.status == ExitCode.USAGE
    document = json.loads(ran.out)
    assert document["unmatched_targets"] == ["linear_fc1_gat"]
    assert document["totals"]["placements"] == 32
    assert ran.err.startswith('error: "linear_fc1_gat" matches no module; did you mean: linear_fc1_gate (32)')


def test_a_plan_that_trains_nothing_is_never_success(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plan", "qwen2.5-0.5b", "--set", "model.num_layers=1", "--exclude-modules", "*")
    assert ran.status == ExitCode.FOUND
    assert "no module gets an adapter" in ran.err
    assert "CL107 error empty-plan" in ran.out


def test_a_default_target_that_the_model_lacks_is_a_note(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plan", "deepseek-v2-lite", "--set", "model.num_layers=2")
    assert (ran.status, ran.err) == (ExitCode.OK, "")
    assert 'CL101 info unmatched-target: "linear_q" matches no module' in ran.out


def test_quiet_prints_findings_only(clora_inspect: CommandLine, saved_plan: Path) -> None:
    assert clora_inspect("plan", str(saved_plan), "-q").out == ""
    assert clora_inspect("-q", "plan", str(saved_plan)).out == ""
    noisy = clora_inspect("plan", "deepseek-v2-lite", "--set", "model.num_layers=2", "-q")
    assert noisy.out.startswith("CL101 info")


def test_what_upstream_says_is_for_who_asks(
    clora_inspect: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chatty_model.py").write_text(
        "import os, sys, warnings\n"
        "from torch import nn\n"
        "def build():\n"
        "    print('to stdout'); print('to stderr', file=sys.stderr); os.write(1, b'to the descriptor\\n')\n"
        "    warnings.warn('a warning')\n"
        "    return nn.Sequential(nn.Linear(8, 8))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("plan", "chatty_model.py:build", "--exclude-modules", "nothing", "-f", "json")
    monkeypatch.setattr(quiet, "_written", set())
    silent = clora_inspect(*words)
    # What the user's own function prints is theirs to see; everything else is for who asks.
    assert (silent.status, silent.err) == (ExitCode.OK, "to stdout\n")
    json.loads(silent.out)
    # A process writes a line of a function once; this one stands for two.
    monkeypatch.setattr(quiet, "_written", set())
    told = clora_inspect(*words, "-v")
    assert told.out == silent.out
    for text in ("to stdout", "to stderr", "to the descriptor", "UserWarning: a warning"):
        assert text in told.err


@pytest.mark.parametrize(
    ("words", "environment", "colored"),
    [
        ((), {}, False),
        ((), {"FORCE_COLOR": "1"}, True),
        ((), {"FORCE_COLOR": ""}, False),
        ((), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (("--color", "always"), {"NO_COLOR": "1"}, True),
        (("--color", "never"), {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colour_is_the_users_choice(
    clora_inspect: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    saved_plan: Path,
    words: tuple[str, ...],
    environment: dict[str, str],
    colored: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[" in clora_inspect("plan", str(saved_plan), *words).out) is colored


def test_ascii_where_stdout_is_not_utf8(saved_plan: Path) -> None:
    ran = own_process("plan", str(saved_plan), PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.isascii()
    assert "896 -> 896" in ran.stdout


def test_a_pipe_whose_reader_has_gone_is_silent(saved_plan: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = own_process("plan", str(saved_plan), "-f", "json", stdout=writer)
    finally:
        os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_entry_point_is_installed(saved_plan: Path) -> None:
    script = Path(sys.executable).parent / "clora-inspect"
    ran = subprocess.run(
        [script, "plan", saved_plan],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env=bare_environment(),
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == own_process("plan", str(saved_plan)).stdout


@pytest.mark.parametrize(
    ("words", "shown", "hidden"),
    [
        (("--expand",), [" 3       "], ["{0..3}   "]),
        (("--filter", "mlp"), ["linear_fc2", 'rows that "mlp" selects'], ["linear_proj"]),
        (("--filter", "*.layers.{3..3}.*.linear_q"), ["linear_q"], ["linear_k", "linear_fc2"]),
        (("--columns", "target,rank"), ["linear_q"], ["A, per rank"]),
        (("--only", "missed"), ["word_embeddings", "not adaptable"], ["linear_qkv"]),
    ],
)
def test_the_view_is_the_users_choice(
    clora_inspect: CommandLine, saved_plan: Path, words: tuple[str, ...], shown: list[str], hidden: list[str]
) -> None:
    out = clora_inspect("plan", str(saved_plan), *words).out
    table = out.partition("trainable params")[0]
    assert [text for text in shown if text not in table] == []
    assert [text for text in hidden if text in table] == []
