"""Mistakes of users, as a table: each gets one clear message with the numbers and a fix, the right
exit code, and never a traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clora_inspect import pipeline
from clora_inspect.exit_code import ExitCode
from clora_inspect.machine.atomic_file import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

FILES = {
    "broken.json": "{",
    "list.json": "[]",
    "bert.json": '{"model_type": "bertt"}',
    "incomplete.json": '{"model_type": "deepseek_v2", "hidden_size": 64}',
    "damaged_plan.json": '{"schema": 1, "rank_classes": [{}]}',
    "newer_plan.json": '{"schema": 9, "rank_classes": []}',
    "notes.txt": "not a model",
    "models.py": (
        "def raises():\n    print('about to fail')\n    raise RuntimeError('no weights here')\n"
        "def returns_nothing():\n    return None\n"
        "number = 3\n"
    ),
    "needs_package.py": "import package_that_nobody_has\n",
    "empty/readme": "",
    "empty/lora.toml": "x = [",
}

MISTAKES: list[tuple[str, list[str]]] = [
    # the words after `plan`, and what the message must say
    ("lama3-8b", ["'lama3-8b'", "llama3-8b"]),
    ("missing.json", ["missing.json", "no such file"]),
    ("broken.json", ["broken.json", "not valid JSON"]),
    ("list.json", ["list.json", "array", "object"]),
    ("bert.json", ["bertt", "llama"]),
    ("incomplete.json", ["num_experts_per_tok", "missing"]),
    ("damaged_plan.json", ["damaged_plan.json", "members", "-f json -o FILE"]),
    ("newer_plan.json", ["schema 9", "up to 1", "Upgrade"]),
    ("notes.txt", ["notes.txt", "config.json"]),
    ("empty", ["empty", "config.json"]),
    ("models.py", ["FILE.py:FUNCTION"]),
    ("models.py:rases", ["rases", "raises"]),
    ("models.py:number", ["int", "not a function"]),
    ("nofile.py:build", ["nofile.py"]),
    ("nomodule.x:build", ["nomodule"]),
    ("", ["JOB", "empty"]),
    ("meta-llama/Llama-3.2-1B", ["Hub", "nothing is fetched", "config.json"]),
    ("https://huggingface.co/meta-llama/Llama-3.2-1B", ["nothing is fetched", "config.json"]),
    ("hf://meta-llama/Llama-3.2-1B", ["nothing is fetched", "config.json"]),
    # LoRA
    ("llama3-8b --target-modules all-linear", ['"all-linear"', "--exclude-modules output_layer"]),
    ("llama3-8b --target-modules linear_fc1_gat", ['"linear_fc1_gat"', "linear_fc1_gate (32)"]),
    ("llama3-8b --target-modules q_proj", ["q_proj", "linear_q (32)"]),
    ("llama3-8b --target-modules linear_qkv", ["linear_qkv", "'linear_q', 'linear_k', 'linear_v'"]),
    ("llama3-8b --target-modules linear_fc1", ["linear_fc1", "'linear_fc1_gate', 'linear_fc1_up'"]),
    ("llama3-8b --target-modules embedding", ["embedding", "Remove the entry"]),
    ("llama3-8b --target-modules linear_q --exclude-modules linear_k", ["target_modules", "exclude_modules"]),
    ("llama3-8b --target-modules=", ["--target-modules", "empty"]),
    ("llama3-8b --target-modules linear_q,,linear_v", ["empty string"]),
    ("llama3-8b --target-modules *.layers.{3..0}.*", ["{3..0}"]),
    ("llama3-8b --dim 12 --tp 8", ["dim = 12", "tp = 8", "8 or 16"]),
    ("llama3-8b --dim 0", ["dim = 0"]),
    ("llama3-8b --dim -4", ["dim = -4"]),
    ("llama3-8b --dim 1000000", ["dim = 1000000", "65,536"]),
    ("llama3-8b --dim sixteen", ["--dim", "'sixteen'"]),
    ("llama3-8b --alpha nan", ["alpha = nan"]),
    ("llama3-8b --alpha 0", ["alpha = 0"]),
    # layout
    ("llama3-8b --tp 0", ["tp = 0"]),
    ("llama3-8b --tp -1", ["tp = -1"]),
    ("llama3-8b --tp 99999999999999999999", ["tp = 99999999999999999999", "16,384"]),
    ("llama3-8b --tp 3", ["tp = 3", "32", "1, 2, 4, 8, 16, 32"]),
    ("llama3-8b --tp 64", ["tp = 64", "num_attention_heads = 32"]),
    ("llama3-8b --ep 2", ["ep = 2", "Leave out --ep"]),
    ("llama3-8b --etp 2", ["etp = 2", "Leave out --etp"]),
    ("mixtral-8x7b --ep 3", ["ep = 3", "num_moe_experts = 8", "1, 2, 4, 8"]),
    ("llama3-8b --pp 5", ["num_layers = 32", "pp = 5", "num_layers_in_last_pipeline_stage=4"]),
    ("llama3-8b --pp 64", ["num_layers = 32", "pp = 64"]),
    ("llama3-8b --vpp 2", ["vpp = 2", "--pp"]),
    ("llama3-8b --sp", ["sp is on", "--no-sp"]),
    ("llama3-8b --tp 2 --world-size 3", ["world_size = 3", "multiple"]),
    ("llama3-8b --world-size 0", ["world_size = 0"]),
    # --set
    ("llama3-8b --set lora.aplha=3", ["aplha", "lora.alpha"]),
    ("llama3-8b --set lora.zzz=3", ["zzz", "dropout_position"]),
    ("llama3-8b --set lora.canonical_mapping={}", ["canonical_mapping"]),
    ("llama3-8b --set lora.dim", ["'lora.dim'", "lora.FIELD=VALUE"]),
    ("llama3-8b --set dropout=0.1", ["'dropout=0.1'", "lora.FIELD=VALUE"]),
    ("llama3-8b --set modle.x=1", ["modle", "model.x"]),
    ("llama3-8b --set lora.target_modules=[linear_q]", ["no JSON", "quotes"]),
    ("llama3-8b --set lora.target_modules=linear_q", ["'linear_q'", "['linear_q']"]),
    ("llama3-8b --set lora.dropout=1.5", ["dropout = 1.5"]),
    ("llama3-8b --set lora.dropout_position=middle", ["'middle'", "'pre', 'post'"]),
    ("llama3-8b --dim 16 --set lora.dim=8", ["--dim", "lora.dim=8"]),
    ("llama3-8b --set model.hidden_sizee=64", ["hidden_sizee", "hidden_size"]),
    ("llama3-8b --set model.num_layers=-2", ["num_layers = -2"]),
    ('llama3-8b --set model.num_layers="x"', ["num_layers = 'x'"]),
    ("llama3-8b --set model.tensor_model_parallel_size=2", ["--tp"]),
    # --set that leaves the config without a field that it needs
    ("llama3-8b --set model.num_moe_experts=8", ["num_moe_experts = 8", "--set model.moe_router_topk="]),
    ("mixtral-8x7b --set model.moe_router_topk=1", ["model.moe_router_pre_softmax", "topk is 1"]),
    ("mixtral-8x7b --set model.moe_router_topk=null", ["--set model.moe_router_topk="]),
    ("llama3-8b --set model.hidden_size=null", ["hidden_size = null", "needs a value"]),
    ("llama3-8b --set model.vocab_size=null", ["vocab_size = null", "needs a value"]),
    ("llama3-8b --set model.rotary_base=null", ["rotary_base = null", "needs a value"]),
    ("deepseek-v2-lite --set model.kv_lora_rank=null", ["kv_lora_rank = null", "needs a value", "512"]),
    ("gpt-oss-20b --set model.yarn_beta_fast=null", ["yarn_beta_fast = null", "needs a value"]),
    ("llama3-8b --set model.position_embedding_type=yarn", ["--set model.yarn_rotary_scaling_factor="]),
    ("deepseek-v2-lite --set model.normalization=Group", ["cannot build", "RMSNorm"]),
    ("llama3-8b --set model.heterogeneous_block_specs=true", ["heterogeneous_block_specs", "FILE.py:FUNCTION"]),
    ("llama3-8b --cp 2 --set model.cp_comm_type=yes", ["cp_comm_type = 'yes'", "p2p, a2a, all_gather, a2a+p2p"]),
    (
        'llama3-8b --set model.num_layers=2 --cp 2 --set model.cp_comm_type=["p2p","a2a"]',
        ["reads the entry after", "one word"],
    ),
    ("gemma2-9b --cp 2", ["cp = 2", "caps the scores", "Leave out --cp."]),
    # two values for one thing
    ("llama3-8b --seq-length 64 --set workload.seq_length=128", ["--seq-length 64 and --set workload.seq_length=128"]),
    # files that are no Python, and files of a LoRA
    (":build", [":build: the name before the colon is missing. Write FILE.py:FUNCTION"]),
    ("notes.py:", ["notes.py:: the name after the colon is missing"]),
    ("bridge:", ["The name of the model is empty."]),
    ("notes.txt:build", ["notes.txt is no Python file", "FILE.py:FUNCTION"]),
    ("broken.json:build", ["broken.json is no Python file"]),
    ("empty:build", ["empty is a folder", "empty/FILE.py:build"]),
    ("llama3-8b --lora empty", ["error: empty has no adapter_config.json"]),
    ("llama3-8b --lora empty/lora.toml", ["error: empty/lora.toml is not valid TOML"]),
    # what a rule names already
    (
        "qwen3-next-80b-a3b --tp 4 --etp 1 --set model.num_layers=4 --set model.num_moe_experts=16 --memory",
        ["cannot be trained (CL316)", "Fix: use tp <= 2."],
    ),
    # the command itself
    ("llama3-8b --target linear_q", ["--target", "Did you mean --target-modules?"]),
    ("llama3-8b --nosp", ["Did you mean --no-sp?"]),
    ("llama3-8b -z", ["no option -z."]),
    ("llama3-8b --fail-on error", ["no option --fail-on. --fail-on is one of check."]),
    ("llama3-8b --gpus 8", ["no option --gpus. --gpus is one of fit."]),
    ("llama3-8b --columns target,foo", ["'foo'", "layers"]),
    ("llama3-8b --depht 3", ["--depht"]),
    ("llama3-8b second", ["second"]),
    ("llama3-8b -f yaml", ["yaml", "json"]),
    ("llama3-8b --device tpu", ["tpu", "meta"]),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[words for words, _ in MISTAKES])
@pytest.mark.usefixtures("folder")
def test_a_mistake_gets_one_message_and_exit_code_2(clora_inspect: CommandLine, words: str, said: list[str]) -> None:
    ran = clora_inspect("plan", *words.split(" "))
    assert ran.status == ExitCode.USAGE, ran
    assert [text for text in said if text not in ran.err] == [], ran.err
    assert ran.err.count("error: ") == 1, ran.err
    assert ran.err.startswith("error: "), ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("typed", ["--seq-length", "--seq-lenght"])
def test_an_option_of_another_command_is_no_misspelling_of_one_here(clora_inspect: CommandLine, typed: str) -> None:
    ran = clora_inspect("check", "llama3-8b", typed, "8")
    assert ran.status == ExitCode.USAGE
    assert "--select" not in ran.err
    assert "--seq-length is one of plan, fit, report, tui. Here it is --set workload.seq_length=VALUE." in ran.err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words",
    [
        ("check", ""),
        ("check", "--select", ""),
        ("check", "--ignore", " "),
        ("check", "--checkpoint", ""),
        ("snapshot", "accept", ""),
        ("snapshot", "accept", "--snapshot-dir", ""),
        ("snapshot", "prune", "--snapshot-dir", " "),
        ("graph", "qwen2.5-0.5b", "-o", ""),
        ("diff", "qwen2.5-0.5b", ""),
        ("fingerprint", ""),
        ("gate", "", "--", "true"),
        ("--config", "", "check"),
        ("plan", "qwen2.5-0.5b", "--lora", ""),
        ("plan", "qwen2.5-0.5b", "--filter", ""),
        ("plan", "qwen2.5-0.5b", "--recompute", ""),
    ],
    ids=" ".join,
)
def test_what_an_unset_variable_of_the_shell_leaves_is_refused(
    words: tuple[str, ...], clora_inspect: CommandLine
) -> None:
    """Without any rule a check would be clean, and an empty path would be the current folder."""
    ran = clora_inspect(*words)
    assert ran.status == 2
    assert "it is empty. Is a variable of the shell not set?" in ran.err


@pytest.mark.parametrize("words", [("check",), ("plan", "qwen2.5-0.5b"), ("config", "show")], ids=" ".join)
def test_a_current_folder_that_was_deleted_is_said(
    words: tuple[str, ...], clora_inspect: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ran = clora_inspect(*words)
    assert (ran.status, ran.err.split(". ")[0]) == (2, "error: the current folder was deleted")


def test_the_command_of_a_gate_may_have_empty_words(clora_inspect: CommandLine, saved_plan: Path) -> None:
    ran = clora_inspect("gate", str(saved_plan), "--", "printf", "")
    assert (ran.status, "the gate was never reached" in ran.err) == (1, True)


def test_without_a_job_the_message_says_so(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plan")
    assert (ran.status, "JOB" in ran.err, ran.out) == (ExitCode.USAGE, True, "")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("models.py:raises", ["RuntimeError: no weights here", "models.py:3", "about to fail"]),
        ("models.py:returns_nothing", ["returned None", "`return` missing", "torch.nn.Module"]),
        ("needs_package.py:build", ["package_that_nobody_has"]),
    ],
)
def test_a_model_function_that_fails_gives_exit_code_3(clora_inspect: CommandLine, job: str, said: list[str]) -> None:
    ran = clora_inspect("plan", job)
    assert ran.status == ExitCode.BUILD, ran
    assert [text for text in said if text not in ran.err] == [], ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


@pytest.mark.usefixtures("folder")
def test_the_traceback_is_there_for_who_asks(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plan", "models.py:raises", "--traceback")
    assert ran.status == ExitCode.BUILD
    assert "Traceback" in ran.err
    assert "in raises" in ran.err


def test_a_bug_of_ours_is_exit_code_4_and_says_what_to_report(
    clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("rank")

    monkeypatch.setattr(pipeline, "plan_job", broken)
    ran = clora_inspect("plan", "llama3-8b")
    assert ran.status == ExitCode.INTERNAL
    assert "internal error: KeyError: 'rank'" in ran.err
    assert "clora-inspect info" in ran.err
    assert "Traceback" not in ran.err


def test_control_c_is_exit_code_130(clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "plan_job", interrupted)
    ran = clora_inspect("plan", "llama3-8b")
    assert (ran.status, ran.out) == (ExitCode.INTERRUPT, "")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("--chekc", ["--check"]),
        ("--verison", ["--version"]),
        ("plan --tpp", ["--tp", "--pp"]),
        ("check --fail-onn", ["--fail-on"]),
        ("check --no-snap", ["--no-snapshot"]),
        ("verify --proc", ["--procs"]),
        ("snapshot accept --snapshotdir", ["--snapshot-dir"]),
        ("config show --fromat", ["--format"]),
        ("tui --screenshots", ["--screenshot"]),
    ],
)
def test_a_mistyped_option_suggests_the_nearest(clora_inspect: CommandLine, typed: str, nearest: list[str]) -> None:
    ran = clora_inspect(*typed.split())
    assert ran.status == ExitCode.USAGE
    assert f"Did you mean {' or '.join(nearest)}?" in ran.err


@pytest.mark.parametrize("words", ["", "config", "snapshot"])
def test_without_words_the_help_is_no_error(clora_inspect: CommandLine, words: str) -> None:
    ran = clora_inspect(*words.split())
    assert (ran.status, ran.out) == (ExitCode.USAGE, "")
    assert ran.err.startswith("Usage: clora-inspect")


def test_an_unknown_command_names_the_nearest(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("plna")
    assert (ran.status, "Did you mean plan?" in ran.err) == (ExitCode.USAGE, True)


@pytest.mark.parametrize("where", ["nowhere/plan.json", "."])
def test_a_file_that_cannot_be_written(clora_inspect: CommandLine, saved_plan: Path, where: str) -> None:
    ran = clora_inspect("plan", str(saved_plan), "-o", where)
    assert ran.status == ExitCode.USAGE
    assert "cannot be written" in ran.err


def test_a_file_that_cannot_be_written_is_named_as_the_user_did(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "picture.svg"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(path, b"")
    assert caught.value.filename == str(path)


def test_a_saved_plan_may_begin_with_a_mark_of_its_encoding(
    clora_inspect: CommandLine, saved_plan: Path, tmp_path: Path
) -> None:
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + saved_plan.read_bytes())
    ran = clora_inspect("plan", str(marked), "-f", "json")
    assert (ran.status, ran.out) == (ExitCode.OK, clora_inspect("plan", str(saved_plan), "-f", "json").out)


def test_options_of_the_job_cannot_change_a_saved_plan(clora_inspect: CommandLine, saved_plan: Path) -> None:
    ran = clora_inspect("plan", str(saved_plan), "--tp", "4")
    assert ran.status == ExitCode.USAGE
    assert "saved plan" in ran.err
