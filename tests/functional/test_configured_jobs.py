"""Configured jobs on the command line: the meaning of JOB, and options that change a job."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from command_line import CommandLine

CONFIG = """\
default = "small"

[lora.few]
dim = 4
alpha = 8
target_modules = ["linear_q", "linear_v"]

[lora.outputs]
dim = 2
target_modules = ["linear_proj"]

[jobs.small]
model = "qwen2.5-0.5b"
lora = "few"
set.model = { num_layers = 2 }
layouts = { one = { tp = 2 }, two = { tp = 1, pp = 2 } }

# The name of a built-in architecture, and another model.
[jobs.llama3-8b]
model = "qwen2.5-0.5b"
lora = { dim = 8 }
set.model = { num_layers = 1 }
"""


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "clora-inspect.toml").write_text(CONFIG)
    return tmp_path


def planned(clora_inspect: CommandLine, *words: str) -> dict[str, Any]:
    ran = clora_inspect("plan", *words, "-f", "json")
    assert ran.status == ExitCode.OK, ran.err
    document: dict[str, Any] = json.loads(ran.out)
    return {
        "model": document["model"]["name"],
        "layers": document["model"]["config"]["num_layers"],
        "tp": document["layout"]["tp"],
        "pp": document["layout"]["pp"],
        "dim": document["lora"]["dim"],
        "alpha": document["lora"]["alpha"],
        "targets": document["lora"]["target_modules"],
        "said": ran.err.strip(),
    }


FIRST = "small/one, the first of 2 layouts; others: small/two"
ONE = {
    "model": "qwen2.5-0.5b",
    "layers": 2,
    "tp": 2,
    "pp": 1,
    "dim": 4,
    "alpha": 8.0,
    "targets": ["linear_q", "linear_v"],
}


@pytest.mark.parametrize(
    ("words", "differs"),
    [
        # Which job, and which layout of it.
        ("small", {"said": FIRST}),
        ("", {"said": FIRST}),
        ("small/one", {}),
        ("small --layout one", {}),
        ("small/two", {"tp": 1, "pp": 2, "said": "small/two, as configured in clora-inspect.toml"}),
        # What is typed beats what is written, field by field.
        ("small/one --dim 16", {"dim": 16}),
        ("small/one --tp 1 --pp 2", {"tp": 1, "pp": 2}),
        ("small/one --set model.num_layers=3 --set lora.alpha=1", {"layers": 3, "alpha": 1.0}),
        ("small/one --target-modules linear_proj", {"targets": ["linear_proj"]}),
        ("small/one --exclude-modules linear_proj", {"targets": []}),
        ("small/one --lora outputs", {"dim": 2, "alpha": 32.0, "targets": ["linear_proj"]}),
        ("small/one --lora outputs --dim 6", {"dim": 6, "alpha": 32.0, "targets": ["linear_proj"]}),
    ],
)
def test_the_job_that_is_planned(clora_inspect: CommandLine, words: str, differs: dict[str, Any]) -> None:
    expected = {**ONE, "said": "small/one, as configured in clora-inspect.toml", **differs}
    assert planned(clora_inspect, *words.split()) == expected


def test_a_configured_job_comes_before_an_architecture_of_its_name(clora_inspect: CommandLine) -> None:
    assert planned(clora_inspect, "llama3-8b")["layers"] == 1
    isolated = planned(clora_inspect, "llama3-8b", "--isolated")
    assert (isolated["layers"], isolated["said"]) == (32, "")


def test_a_configured_lora_goes_with_any_model(clora_inspect: CommandLine) -> None:
    plan = planned(clora_inspect, "qwen2.5-0.5b", "--lora", "few", "--set", "model.num_layers=1")
    assert (plan["dim"], plan["targets"], plan["said"]) == (4, ["linear_q", "linear_v"], "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan smal", "'smal' is no configured job, no built-in architecture and no file. Did you mean small?"),
        ("plan small/thre", "no layout 'thre' is configured"),
        ("plan small --layout tow", "Did you mean two?"),
        ("plan small --lora fwe", "no LoRA 'fwe' is configured. Did you mean few?"),
        ("plan qwen2.5-0.5b --layout one", "--layout one: qwen2.5-0.5b is no configured job"),
        ("plan small --tp 3", "tp = 3"),
        ("plan small --set lora.aplha=3", "CanonicalLoRA has no field 'aplha'"),
        ("plan --config default='llama'", "--config default: no job of that name is configured"),
        ("plan --isolated", "JOB is missing: name a model, for example llama3-8b, or a file."),
        ("verify small --layout tow", "Did you mean two?"),
        ("graph smal", "Did you mean small?"),
        ("check small --lora fwe", "Did you mean few?"),
    ],
)
def test_what_means_nothing_gets_one_message_and_exit_code_2(clora_inspect: CommandLine, words: str, said: str) -> None:
    ran = clora_inspect(*words.split())
    assert (ran.status, ran.out) == (ExitCode.USAGE, "")
    assert ran.err.count("error: ") == 1
    assert said in ran.err


def test_several_jobs_and_no_default_are_named(clora_inspect: CommandLine, repository: Path) -> None:
    (repository / "clora-inspect.toml").write_text(CONFIG.replace('default = "small"\n', ""))
    ran = clora_inspect("plan")
    assert (ran.status, ran.out) == (ExitCode.USAGE, "")
    assert "JOB is missing, and 2 are configured (small, llama3-8b)" in ran.err


def test_graph_and_explain_take_configured_jobs(clora_inspect: CommandLine) -> None:
    drawn = clora_inspect("graph", "small/two", "-f", "json")
    assert drawn.status == ExitCode.OK
    assert "linear_qkv" in drawn.out
    explained = clora_inspect("explain", "decoder.layers.1.self_attention.linear_qkv", "small/two")
    assert explained.status == ExitCode.OK
    assert '"linear_q" selects it' in explained.out
    assert "pipeline stage 1" in explained.out


def test_check_shows_what_options_would_change_and_offers_nothing(clora_inspect: CommandLine, repository: Path) -> None:
    assert clora_inspect("snapshot", "accept", "small", "-q").status == ExitCode.OK
    assert clora_inspect("check", "small", "-q").status == ExitCode.OK
    changed = clora_inspect("check", "small/one", "--dim", "16", "-f", "json", "--no-progress")
    report = json.loads(changed.out)
    assert changed.status == ExitCode.FOUND
    assert "CL704" in {finding["code"] for finding in report["findings"]}
    assert "4 -> 16" in changed.out
    assert list(repository.glob("snapshots/**/*.new")) == []


def test_what_was_typed_is_found_where_the_job_is_and_at_no_field(clora_inspect: CommandLine, repository: Path) -> None:
    def place(*words: str) -> Any:
        ran = clora_inspect("check", "small/one", "--no-snapshot", "-f", "json", "--no-progress", *words)
        (finding,) = [each for each in json.loads(ran.out)["findings"] if each["code"] == "CL101"]
        return (repository / "clora-inspect.toml").read_text().splitlines()[finding["location"]["line"] - 1]

    written = CONFIG.replace('"linear_q", "linear_v"', '"linear_q", "linear_fc1_gat"')
    assert place("--target-modules", "linear_q,linear_fc1_gat") == 'model = "qwen2.5-0.5b"'
    (repository / "clora-inspect.toml").write_text(written)
    assert place() == 'target_modules = ["linear_q", "linear_fc1_gat"]'


def test_verify_proves_the_implementation_that_the_job_names(clora_inspect: CommandLine, repository: Path) -> None:
    text = CONFIG.replace('lora = "few"\n', 'lora = "few"\nimplementation = "megatron-bridge"\n')
    (repository / "clora-inspect.toml").write_text(text)
    ran = clora_inspect("verify", "small/two", "--proof", "base-twice", "--no-progress", "-f", "json")
    if ran.status == ExitCode.OK:  # Megatron-Bridge is installed
        assert json.loads(ran.out)["implementation"] == "megatron-bridge"
    else:
        assert (ran.status, "megatron-bridge: it is not installed" in ran.err) == (ExitCode.BUILD, True), ran


def test_a_check_judges_by_the_release_of_megatron_bridge_that_the_job_names(
    clora_inspect: CommandLine, repository: Path
) -> None:
    def check(release: str) -> tuple[int, str]:
        (repository / "clora-inspect.toml").write_text(
            f"""
            [jobs.experts]
            model = "mixtral-8x7b"
            set.model = {{ num_layers = 1 }}
            lora = {{ target_modules = ["router"], dim = 4 }}
            implementation = "megatron-bridge"
            bridge-release = "{release}"
            """
        )
        ran = clora_inspect("check", "--no-snapshot", "--no-cache")
        return ran.status, ran.out + ran.err

    fails = "the first forward of Megatron-Bridge 0.3.1 fails"
    assert [(status, fails in told) for status, told in map(check, ("0.3.1", "0.4.2", "main"))] == [
        (ExitCode.FOUND, True),
        (ExitCode.OK, False),
        (ExitCode.OK, False),
    ]
    status, told = check("newest")
    assert (status, "bridge-release: 'newest' is no release" in told) == (ExitCode.USAGE, True), told


MODEL = """\
import sizes


def build(pre_process, post_process):
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
    from megatron.core.transformer import TransformerConfig

    config = TransformerConfig(num_layers=1, hidden_size=sizes.HIDDEN, num_attention_heads=4)
    return GPTModel(
        config, get_gpt_layer_with_transformer_engine_spec(), vocab_size=64, max_sequence_length=32,
        pre_process=pre_process, post_process=post_process,
    )
"""


@pytest.mark.parametrize("command", ["plan", "graph", "check --no-snapshot --no-cache", "verify --proof base-twice"])
def test_a_configured_function_is_found_from_wherever_the_command_runs(
    clora_inspect: CommandLine, repository: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A path or module in the configuration is looked for in its folder, one on the command line in
    the current folder. A file finds the modules beside it.
    """
    below = repository / "runs" / "today"
    below.mkdir(parents=True)
    (repository / "sizes.py").write_text("HIDDEN = 64\n")
    (repository / "models.py").write_text(MODEL)
    text = CONFIG + '\n[jobs.own]\nmodel = "models.py:build"\nlora = { target_modules = ["linear_proj"] }\n'
    (repository / "clora-inspect.toml").write_text(text)
    monkeypatch.chdir(below)
    for module in ("sizes", "models"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    word, *options = command.split()
    ran = clora_inspect(word, "own", *options)
    assert ran.status == ExitCode.OK, ran.err
    monkeypatch.delitem(sys.modules, "sizes")
    assert clora_inspect(word, "../../models.py:build", "--isolated", *options).status == ExitCode.OK
    monkeypatch.delitem(sys.modules, "sizes")
    assert clora_inspect(word, "models:build", "--isolated", *options).status == ExitCode.USAGE
    (below / "models.py").write_text(MODEL)
    # A function that fails is a finding of a check.
    fails = ExitCode.FOUND if word == "check" else ExitCode.BUILD
    assert clora_inspect(word, "models:build", "--isolated", *options).status == fails
    (below / "sizes.py").write_text("HIDDEN = 64\n")
    monkeypatch.delitem(sys.modules, "models", raising=False)
    assert clora_inspect(word, "models:build", "--isolated", *options).status == ExitCode.OK
    assert Path.cwd() == below


@pytest.mark.skipif(
    Path(str(find_spec("megatron.core").submodule_search_locations[0]), "models/hybrid").exists(),  # type: ignore[union-attr,index]
    reason="this megatron-core has a HybridModel",
)
def test_a_class_of_model_that_the_release_lacks_is_refused_by_its_name(clora_inspect: CommandLine) -> None:
    config = Path("clora-inspect.toml")
    config.write_text(config.read_text() + 'model-class = "hybrid"\n')
    for words in (["llama3-8b"], ["small", "--model-class", "hybrid"]):
        ran = clora_inspect("plan", *words)
        assert ran.status == ExitCode.BUILD
        assert "megatron-core 0.16" in ran.err
        assert "has no HybridModel, which came with 0.18. Leave out --model-class hybrid" in ran.err
    assert clora_inspect("plan", "llama3-8b", "--model-class", "gpt").status == ExitCode.OK
