"""Files with the LoRA of a job: the `peft` section of Megatron-Bridge, how a job names a file, and
files that are made to do harm.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from clora_inspect.cli import main
from clora_inspect.config.errors import ConfigError
from clora_inspect.config.jobs import configured_jobs
from clora_inspect.config.load import load
from clora_inspect.config.lora_file.errors import LoRAFileError
from clora_inspect.config.lora_file.reader import read_lora_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CANONICAL = "megatron.bridge.peft.canonical_lora.CanonicalLoRA"
LORA = "megatron.bridge.peft.lora.LoRA"
DORA = "megatron.bridge.peft.dora.DoRA"

RUN = f"""\
_target_: megatron.bridge.training.config.ConfigContainer
model:
  _target_: megatron.bridge.models.llama.llama_provider.Llama3ModelProvider8B
  init_method: {{_target_: os.system, _args_: [touch it_ran]}}
  dtype: &dtype bfloat16
peft:
  _target_: {CANONICAL}
  _alias_matches: {{}}
  a2a_experimental: false
  alpha: 16
  canonical_mapping: {{linear_qkv: [linear_q]}}
  dim: 8
  dropout: 0.1
  exclude_modules: []
  lora_dtype: null
  params_to_save: []
  target_modules: [linear_q, linear_proj]
optimizer: {{params_dtype: *dtype}}
"""


def read(path: Path, *, model: str = "llama3-8b", as_canonical: bool = False) -> dict[str, Any]:
    return read_lora_file(path, model, {}, folder=path.parent, as_canonical=as_canonical).written()


def section(tmp_path: Path, **fields: Any) -> Path:
    path = tmp_path / "peft.json"
    path.write_text(json.dumps(fields))
    return path


def test_a_message_names_a_file_as_the_job_does(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "lora.toml").write_text("x = [")
    (tmp_path / "clora-inspect.toml").write_text('[jobs.j]\nmodel = "llama3-8b"\nlora = "sub/lora.toml"\n')
    with pytest.raises(ConfigError, match=r"jobs\.j\.lora: sub/lora\.toml is not valid TOML"):
        configured_jobs(load(tmp_path, environ={}))


def test_the_peft_section_of_a_run_is_read_as_data(tmp_path: Path) -> None:
    (tmp_path / "run_config.yaml").write_text(RUN)
    expected = {
        "dim": 8,
        "alpha": 16,
        "dropout": 0.1,
        "exclude_modules": [],
        "target_modules": ["linear_q", "linear_proj"],
    }
    assert read(tmp_path) == expected
    assert read(tmp_path / "run_config.yaml") == expected
    assert not (tmp_path / "it_ran").exists()


def test_json_toml_and_a_section_alone(tmp_path: Path) -> None:
    assert read(section(tmp_path, peft_scheme="canonical-lora", dim=4)) == {"dim": 4}
    assert read(section(tmp_path, peft={"_target_": CANONICAL, "dim": 4})) == {"dim": 4}
    (tmp_path / "run.toml").write_text(f'[peft]\n_target_ = "{CANONICAL}"\nshare_expert_adapters = false\n')
    assert read(tmp_path / "run.toml") == {"share_expert_adapters": False}


@pytest.mark.parametrize(
    ("kind", "model", "expected"),
    [
        (
            LORA,
            "llama3-8b",
            ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1_gate", "linear_fc1_up", "linear_fc2"],
        ),
        (DORA, "nemotron-4-15b", ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1_up", "linear_fc2"]),
    ],
)
def test_another_type_is_named_and_planned_as_canonical_only_if_asked(
    kind: str, model: str, expected: list[str], tmp_path: Path
) -> None:
    name = kind.rpartition(".")[2]
    path = section(tmp_path, _target_=kind)
    with pytest.raises(LoRAFileError, match=rf"peft\.json: the peft section is {name} of Megatron-Bridge.*canonical"):
        read(path, model=model)
    assert read(path, model=model, as_canonical=True)["target_modules"] == expected
    layers = section(tmp_path, _target_=kind, target_modules=["*.layers.0.*.linear_qkv", "linear_proj"])
    assert read(layers, model=model, as_canonical=True)["target_modules"] == [
        *(f"*.layers.0.*.linear_{part}" for part in "qkv"),
        "linear_proj",
    ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"peft": None}, "peft = null: the run trains all parameters"),
    ({"dim": 8}, "neither an adapter_config.json .* nor a run of Megatron-Bridge"),
    ({"peft": {"dim": 8}}, "neither _target_ nor peft_scheme"),
    ({"peft": [1]}, "peft is no mapping"),
    ({"peft": "lora"}, "the peft section is LoRA"),
    ({"peft_scheme": "loraa"}, "peft_scheme = 'loraa' is not known. Did you mean lora"),
    ({"_target_": "os.system"}, "_target_ = 'os.system' is no PEFT type"),
    ({"_target_": "megatron.bridge.peft.ia3.IA3"}, "is no PEFT type that is known here"),
    ({"_target_": ["os.system"]}, "is no PEFT type"),
    ({"_target_": CANONICAL, "lora_dtype": "float32"}, "has 'lora_dtype' = 'float32', which canonical LoRA cannot"),
    ({"_target_": CANONICAL, "rank_pattern": {"a": 1}}, "has 'rank_pattern'"),
    ({"_target_": CANONICAL, "target_modules": ["linear_qkv"]}, "names the fused 'linear_qkv'"),
    ({"_target_": CANONICAL, "target_modules": "linear_q"}, "Expected `array"),
    ({"_target_": CANONICAL, "dim": 10**9}, "dim = 1000000000"),
    ({"_target_": CANONICAL, "dim": "8"}, r"Expected `int.*\$\.dim"),
    ({"_target_": CANONICAL, "alpha": -1}, "alpha = -1"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED, ids=[said[:30] for _, said in REFUSED])
def test_sections_that_are_refused(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(LoRAFileError, match=said) as caught:
        read(section(tmp_path, **fields))
    assert "peft.json" in str(caught.value)


def text(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "adapter_config.json")
    return folder


def _device(folder: Path) -> Path:
    (folder / "run_config.yaml").symlink_to("/dev/zero")
    return folder


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name}\n  <<: [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HARMFUL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a pipe": (_pipe, "cannot be read: it is a pipe"),
    "a device": (_device, "cannot be read: it is a device"),
    "nothing": (lambda folder: folder / "missing.json", "cannot be read: No such file"),
    "an empty folder": (lambda folder: folder, "has no adapter_config.json and no run_config.yaml"),
    "a large file": (text("a.json", b" " * 600_000), "has 600,000 bytes"),
    "a pickle": (text("adapter.bin", b"\x80\x04"), "is none of .json"),
    "a pickle called YAML": (text("a.yaml", b"\x80\x04cos\nsystem\n"), "is not the YAML|is not valid YAML"),
    "a tag that runs": (text("a.yaml", "peft: !!python/object/apply:os.system ['touch it_ran']"), "line 1, column 7"),
    "a tag that imports": (text("a.yaml", "peft: !!python/name:os.system"), "not the YAML of a configuration"),
    "a bomb of aliases": (
        text("a.yaml", f"{BOMB}peft:\n  _target_: {CANONICAL}\n  target_modules: *i\n"),
        "Expected `str`",
    ),
    "a bomb as a class": (text("a.yaml", f"{BOMB}peft: {{_target_: *i}}\n"), "is no PEFT type"),
    "a bomb as an unknown key": (
        text("a.yaml", f"{BOMB}peft:\n  _target_: {CANONICAL}\n  rank_pattern: *i\n"),
        "has 'rank_pattern' = ",
    ),
    "a bomb as a key of PEFT": (
        text("a.yaml", f"{BOMB}peft_type: LORA\nuse_dora: *i\n"),
        "has a, a field that is not known here",
    ),
    "a bomb of merges": (text("a.yaml", f"{MERGES}peft: *i\n"), "has a merge key"),
    "a mapping in itself": (text("a.yaml", "&a {peft: *a}"), "neither an adapter_config"),
    "deep YAML": (text("a.yaml", "[" * 50_000), "not valid YAML|not the YAML"),
    "deep JSON": (text("a.json", "[" * 50_000), "is not valid JSON"),
    "a number of 5,000 digits": (
        text("a.yaml", f"peft: {{_target_: {CANONICAL}, dim: {'9' * 5000}}}"),
        "not valid YAML",
    ),
    "a large number in JSON": (text("a.json", f'{{"_target_": "{CANONICAL}", "dim": {"9" * 5000}}}'), "a.json"),
    "infinity": (text("a.yaml", f"peft: {{_target_: {CANONICAL}, alpha: .inf}}"), "alpha = inf"),
    "no UTF-8": (text("a.toml", b"\xff\xfe"), "is not valid TOML"),
    "a list": (text("a.json", "[]"), "holds no mapping"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_harmful_file_is_one_clear_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, said = HARMFUL[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoRAFileError, match=said) as caught:
        read(make(tmp_path))
    assert len(str(caught.value)) < 700
    assert not (tmp_path / "it_ran").exists()


def test_a_job_names_a_file_beside_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}))
    config = tmp_path / "clora-inspect.toml"
    config.write_text('[jobs.a]\nmodel = "llama3-8b"\nlora = "./adapter"\n')
    (job,) = configured_jobs(load(tmp_path))
    assert (job.job.lora.target_modules, job.job.lora.dim, job.job.targets_written) == (["linear_q"], 4, True)
    path.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["nothing"]}))
    with pytest.raises(ConfigError, match=r"clora-inspect\.toml:3:8: jobs\.a\.lora: .*adapter_config\.json.*'nothing'"):
        configured_jobs(load(tmp_path))
    config.write_text('[jobs.a]\nmodel = "llama3-8b"\nlora = "adapter"\n')
    with pytest.raises(
        ConfigError, match=r"no \[lora\.adapter\] is defined.*A folder is written with a slash: \./adapter"
    ):
        load(tmp_path)


def test_an_option_names_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section(tmp_path, _target_=LORA, target_modules=["linear_qkv"], dim=4)
    plan = ("plan", "llama3-8b", "--set", "model.num_layers=1", "--lora", "peft.json", "-f", "json")
    assert main(plan) == 2
    assert "the peft section is LoRA of Megatron-Bridge" in capsys.readouterr().err
    assert main((*plan, "--lora-as-canonical")) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["lora"]["target_modules"] == ["linear_q", "linear_k", "linear_v"]
    assert planned["lora"]["dim"] == 4
    # What is typed beside it goes before it.
    assert main((*plan, "--lora-as-canonical", "--dim", "16")) == 0
    assert json.loads(capsys.readouterr().out)["lora"]["dim"] == 16
    assert main(("plan", "llama3-8b", "--lora-as-canonical")) == 2
    assert "name it with --lora FILE" in capsys.readouterr().err
    assert main(("plan", "llama3-8b", "--lora", "peftt")) == 2
    assert "no LoRA 'peftt' is configured" in capsys.readouterr().err


def test_layers_of_a_hybrid_model_are_those_of_the_adapter_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    fields = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]}
    path.write_text(json.dumps(fields | {"layers_to_transform": [3, 4, 5, 9]}))
    assert read(path, model="hybrid:llama3-8b")["target_modules"] == [
        "decoder.layers.{6..10}.self_attention.linear_q",
        "decoder.layers.18.self_attention.linear_q",
        "decoder.layers.{7..11}.mlp.linear_fc2",
        "decoder.layers.19.mlp.linear_fc2",
    ]
