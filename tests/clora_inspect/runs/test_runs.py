"""Runs of Megatron-Bridge as jobs. The three files beside have the fields of the providers of
Megatron-Bridge 0.3.1, as it writes them, for models that are built in here too.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from clora.canonical_lora import CanonicalLoRA
from clora.errors import DeviceError, LayoutError, ModelError
from clora_inspect.cli import main
from clora_inspect.config.job_name import NamedJob, meaning_of
from clora_inspect.config.lora_file.errors import LoRAFileError
from clora_inspect.config.run_job import RunLoRA
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.definition import load_definition
from clora_inspect.sources.run import fields
from clora_inspect.sources.run.model import model_of_run

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
BUILT_IN = {"llama": "llama3-8b", "qwen_moe": "qwen3-30b-a3b", "deepseek": "deepseek-v3"}
RUNS: dict[str, dict[str, Any]] = {name: yaml.safe_load((HERE / f"{name}.yaml").read_text()) for name in BUILT_IN}


def run(name: str, **changes: Any) -> dict[str, Any]:
    """Return a run with other fields of its model."""
    made = copy.deepcopy(RUNS[name])
    made["model"] |= changes
    return made


def written(folder: Path, values: object) -> Path:
    path = folder / "run_config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def nested(name: str) -> dict[str, Any]:
    """Return a run as newer releases write it."""
    made = copy.deepcopy(RUNS[name])
    flat = made["model"]
    own = {key: flat.pop(key) for key in [*flat] if key in fields.ARGUMENTS or key in ("vocab_size", "seq_length")}
    flat.pop("transformer_layer_spec")
    kind = "MLATransformerConfig" if flat["multi_latent_attention"] else "TransformerConfig"
    # These are fields of latent attention too.
    flat |= {key: own[key] for key in ("rotary_base", "rotary_percent")}
    flat |= {"_target_": f"megatron.core.transformer.transformer_config.{kind}", "activation_func": "silu"}
    flat |= {"params_dtype": "torch.bfloat16"}
    made["model"] = own | {
        "_target_": "megatron.bridge.models.gpt.model_config.BridgeGPTModelConfig",
        "_builder_": "megatron.training.models.gpt.GPTModelBuilder",
        "transformer": flat,
    }
    return made


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_model_of_a_run_is_the_model_of_its_config(name: str) -> None:
    layout = Layout(tp=2, etp=1)
    changes = {"num_layers": 4, "num_layers_in_last_pipeline_stage": None}
    theirs = plan_job(Job(model=str(HERE / f"{name}.yaml"), layout=layout, model_overrides=changes))
    ours = plan_job(Job(model=BUILT_IN[name], layout=layout, model_overrides=changes))
    assert theirs.totals == ours.totals
    assert theirs.model.fingerprint == ours.model.fingerprint
    assert theirs.model.dtype == ours.model.dtype
    assert [each.placements for each in theirs.rank_classes] == [each.placements for each in ours.rank_classes]


@pytest.mark.parametrize("name", BUILT_IN)
def test_both_layouts_of_the_file_mean_the_same(name: str, tmp_path: Path) -> None:
    flat, new = model_of_run(HERE / f"{name}.yaml"), model_of_run(written(tmp_path, nested(name)))
    assert new.layout == flat.layout
    assert new.conversion == flat.conversion


def test_parallel_sizes_are_the_layout() -> None:
    layouts = {name: model_of_run(HERE / f"{name}.yaml").layout for name in BUILT_IN}
    assert layouts == {
        "llama": Layout(tp=2, pp=2),
        "qwen_moe": Layout(tp=2, ep=4, etp=1),
        "deepseek": Layout(pp=4, ep=8),
    }
    assert load_definition(str(HERE / "deepseek.yaml")).split(layouts["deepseek"]).how == (
        "set by num_layers_in_last_pipeline_stage"
    )


def test_sequence_parallelism_and_chunks(tmp_path: Path) -> None:
    path = written(tmp_path, run("llama", sequence_parallel=False, virtual_pipeline_model_parallel_size=4))
    assert model_of_run(path).layout == Layout(tp=2, pp=2, vpp=4, sp=False)
    path = written(tmp_path, run("llama", sequence_parallel=False, tensor_model_parallel_size=1))
    # Nothing is said about a larger tp.
    assert model_of_run(path).layout == Layout(pp=2)


def test_a_vocabulary_is_padded_as_the_run_pads_it(tmp_path: Path) -> None:
    changes = {"should_pad_vocab": True, "vocab_size": 1000, "make_vocab_size_divisible_by": 64}
    definition = load_definition(str(written(tmp_path, run("llama", **changes))))
    assert definition.model["vocab_size"] == 1024
    assert definition.notes[0] == "vocab_size = 1000 is padded to 1024, as Megatron-Bridge does for tp = 2."


def test_fields_that_are_not_known_are_named(tmp_path: Path) -> None:
    definition = load_definition(str(written(tmp_path, run("llama", new_thing=3, off=False, nothing=None))))
    assert definition.notes[0] == "Not known here, and not read: new_thing of the run's model."


def test_the_fields_are_those_of_megatron_core() -> None:
    from clora_inspect.virtual import megatron_on

    with megatron_on("meta"):
        from megatron.core.transformer import MLATransformerConfig

        defaults = {field.name: field.default for field in dataclasses.fields(MLATransformerConfig)}
    read = fields.CONFIG | fields.OF_EXPERTS | fields.OF_LATENT_ATTENTION | fields.OF_VARIANT
    assert read <= defaults.keys()
    # Latent attention says it of itself.
    on = {name for name in read if defaults[name] is True} - {"multi_latent_attention"}
    assert on == set(fields.ON_BY_DEFAULT)


def job(path: Path, run_lora: RunLoRA = RunLoRA.AS_IT_IS) -> Job:
    meaning = meaning_of(str(path), None, run_lora=run_lora)
    assert isinstance(meaning, NamedJob)
    return meaning.meant[0].job


def test_peft_is_the_lora() -> None:
    llama = job(HERE / "llama.yaml")
    assert (llama.lora.target_modules, llama.lora.dim, llama.lora.alpha) == (["linear_q", "linear_v"], 8, 16)
    assert (llama.layout, llama.targets_written) == (Layout(tp=2, pp=2), True)


@pytest.mark.parametrize(
    ("name", "kind", "targets"),
    [("qwen_moe", "LoRA", ["linear_q", "linear_k", "linear_v", "linear_proj"]), ("deepseek", "DoRA", ["linear_proj"])],
)
def test_another_type_is_planned_as_canonical_only_if_asked(name: str, kind: str, targets: list[str]) -> None:
    path = HERE / f"{name}.yaml"
    with pytest.raises(LoRAFileError, match=rf"the peft section is {kind} of Megatron-Bridge"):
        job(path)
    assert job(path, RunLoRA.AS_CANONICAL).lora.target_modules == targets
    assert job(path, RunLoRA.NOT).lora == CanonicalLoRA()


def test_a_run_that_trains_everything_gets_any_lora(tmp_path: Path) -> None:
    assert job(written(tmp_path, RUNS["llama"] | {"peft": None})).lora == CanonicalLoRA()


def test_a_folder_means_its_run_or_that_of_its_latest_iteration(tmp_path: Path) -> None:
    for number, size in ((20, 1), (100, 2), (9, 4)):
        folder = tmp_path / f"iter_{number:07d}"
        folder.mkdir()
        written(folder, run("llama", pipeline_model_parallel_size=size))
    (tmp_path / "iter_0000200").mkdir()  # being written
    assert job(tmp_path).layout.pp == 2
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("20\n")
    assert job(tmp_path).layout.pp == 1
    written(tmp_path, run("llama", pipeline_model_parallel_size=8))
    assert job(tmp_path).layout.pp == 8


def test_options_go_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, run("llama", num_layers=2, pipeline_model_parallel_size=1))
    assert main(["plan", str(path), "--isolated", "--tp", "4", "--dim", "4", "--target-modules", "linear_proj"]) == 0
    out = capsys.readouterr().out
    assert "tp4 sp" in out
    assert "dim 4, alpha 16" in out
    assert "The run has the layout tp2 sp" in out
    assert main(["plan", str(path), "--isolated", "--via", "bridge"]) == 2
    assert "a run is built from its own fields" in capsys.readouterr().err
    assert main(["plan", "llama3-8b", "--isolated", "--lora-as-canonical"]) == 2
    assert "name it with --lora FILE" in capsys.readouterr().err


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "layers of its own": (
        {"_target_": "megatron.bridge.models.gemma.gemma3_provider.Gemma3ModelProvider"},
        DeviceError,
        "Gemma3ModelProvider of Megatron-Bridge makes layers or a model of its own",
    ),
    "Mamba layers": (
        {"_target_": "megatron.bridge.models.nemotronh.nemotron_h_provider.Nemotron3NanoProvider"},
        DeviceError,
        "Nemotron3NanoProvider of Megatron-Bridge makes layers or a model of its own",
    ),
    "a hybrid model": (
        {"_target_": "megatron.bridge.models.hybrid.hybrid_builder.HybridModelConfig", "transformer": {}},
        DeviceError,
        "HybridModelConfig of Megatron-Bridge makes layers or a model of its own",
    ),
    "images": (
        {"_target_": "megatron.bridge.models.qwen_vl.qwen35_vl_provider.Qwen35VLMoEModelProvider"},
        DeviceError,
        "Name the config.json of the model as JOB",
    ),
    "YaRN without its numbers": ({"position_embedding_type": "yarn"}, DeviceError, "does not keep the numbers of YaRN"),
    "local layers": ({"transformer_impl": "local"}, DeviceError, "model.transformer_impl = 'local'"),
    "a flag": ({"use_transformer_engine_full_layer_spec": True}, DeviceError, "full_layer_spec is on"),
    "sp without tp": ({"tensor_model_parallel_size": 1}, LayoutError, "sequence_parallel is on"),
    "tp of 0": ({"tensor_model_parallel_size": 0}, LayoutError, "tp = 0"),
    "tp of text": (
        {"tensor_model_parallel_size": "2"},
        ModelError,
        "run_config.yaml: model.tensor_model_parallel_size = '2': it is a whole number.",
    ),
    "a spec with arguments": (
        {
            "transformer_layer_spec": {
                "_target_": "megatron.core.models.gpt.gpt_layer_specs.get_gpt_decoder_block_spec",
                "_partial_": True,
                "use_transformer_engine": False,
            }
        },
        ModelError,
        "with arguments, or for a model, that it is not built for",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_built_is_said(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, error, said = REFUSED[name]
    path = written(tmp_path, run("llama", **changes))
    with pytest.raises(error) as caught:
        model_of_run(path)
    assert said in str(caught.value)
    assert main(["plan", str(path), "--isolated"]) == (3 if error is DeviceError else 2)
    assert said in capsys.readouterr().err


def test_a_field_that_is_left_out_is_not_guessed(tmp_path: Path) -> None:
    values = run("qwen_moe")
    del values["model"]["normalization"], values["model"]["moe_ffn_hidden_size"]
    with pytest.raises(ModelError, match="model lacks normalization, moe_ffn_hidden_size"):
        model_of_run(written(tmp_path, values))


LLAMA_TEXT = (HERE / "llama.yaml").read_text()
BOMB = "\n".join(["a0: &a0 [1, 2]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)), ""])


def _changed(**changes: Any) -> Callable[[], bytes]:
    return lambda: yaml.safe_dump(run("llama", **changes)).encode()


def _transformer(**changes: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        made = nested("llama")
        made["model"]["transformer"] |= {key: value for key, value in changes.items() if key != "model"}
        made["model"] |= changes.get("model", {})
        return yaml.safe_dump(made).encode()

    return make


def _model(text: str) -> Callable[[], bytes]:
    return f"{BOMB if '*a39' in text else ''}model:\n  {text}\n".encode


EXECUTE = {"_target_": "os.system", "_args_": ["touch it_ran"]}
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a tag that runs": (_model("x: !!python/object/apply:os.system ['touch it_ran']"), "is not the YAML"),
    "a tag that makes": (_model("x: !!python/object/new:os.system ['touch it_ran']"), "is not the YAML"),
    "a tag of a module": (_model("x: !!python/module:os"), "is not the YAML"),
    "a tag of its own": (_model("x: !evil 1"), "is not the YAML"),
    "a provider that runs": (_changed(**EXECUTE), "model._target_ = 'os.system'"),
    "a provider of a path": (_changed(_target_="../../evil/provider.Provider"), "Nothing is imported"),
    "a provider below": (
        _changed(_target_="megatron.bridge.models.gpt_provider.GPTModelProvider.provide"),
        "Nothing is imported",
    ),
    "a provider of nothing": (_changed(_target_="megatron.bridge.models..os.system"), "Nothing is imported"),
    "a provider that is a list": (_changed(_target_=["os.system"]), "model._target_ = a list"),
    "a function that runs": (_changed(activation_func=EXECUTE), "model.activation_func is 'os.system'"),
    "a function that is called": (
        _changed(activation_func={"_target_": "torch.nn.functional.silu", "_call_": True}),
        "model.activation_func is",
    ),
    "a size that runs": (_changed(hidden_size=EXECUTE), "model.hidden_size is 'os.system'"),
    "a spec that runs": (_changed(transformer_layer_spec=EXECUTE), "transformer_layer_spec is 'os.system'"),
    "a dtype of a path": (_changed(params_dtype={"_target_": "../../torch.float32", "_call_": False}), "params_dtype"),
    "a builder that runs": (_transformer(model={"_builder_": "os.system"}), "model._builder_ = 'os.system'"),
    "a transformer that runs": (_transformer(**EXECUTE), "model.transformer._target_ = 'os.system'"),
    "a transformer of text": (_transformer(model={"transformer": "x"}), "model.transformer is no mapping"),
    "an alias bomb": (_model("num_layers: *a39"), "model._target_ = None"),
    "an alias bomb in a field": (
        f"{BOMB}{LLAMA_TEXT.replace('num_layers: 32', 'num_layers: *a39')}".encode,
        "model.num_layers",
    ),
    "an alias of itself": (
        lambda: LLAMA_TEXT.replace("recompute_modules: null", "recompute_modules: &me [*me]").encode(),
        "model.recompute_modules",
    ),
    "a merge key": (lambda: b"a: &a {b: 1}\n" + LLAMA_TEXT.replace("model:\n", "model:\n  <<: *a\n").encode(), "<<"),
    "a key twice": (lambda: LLAMA_TEXT.replace("peft:\n", "train: {}\npeft:\n").encode(), "it has the key train twice"),
    "a field twice": (
        lambda: LLAMA_TEXT.replace("  num_layers: 32\n", "  num_layers: 32\n  num_layers: 2\n").encode(),
        "it has the key num_layers twice",
    ),
    "a pickle": (lambda: b"\x80\x04\x95cposix\nsystem\n(S'touch it_ran'\ntR.", "is not"),
    "NUL": (lambda: LLAMA_TEXT.replace("num_layers: 32", "num_layers: 3\x002").encode(), "is not the YAML"),
    "deep nesting": (lambda: b"model: " + b"[" * 5_000, "is not"),
    "a long number": (_model(f"num_layers: {'9' * 5000}"), "is not valid YAML"),
    "a billion layers": (_changed(num_layers=10**9), "model.num_layers = 1000000000"),
    "layers below 0": (_changed(num_layers=-1), "model.num_layers = -1"),
    "a huge width": (_changed(hidden_size=10**30), "model.hidden_size = 1000"),
    "a width of hexadecimals": (
        lambda: LLAMA_TEXT.replace("hidden_size: 4096", f"hidden_size: 0x{'f' * 9000}", 1).encode(),
        "a number that is too long",
    ),
    "layers of text": (_changed(num_layers="many"), "model.num_layers = 'many'"),
    "heads of truth": (_changed(num_attention_heads=True), "model.num_attention_heads = True"),
    "a width of null": (_changed(hidden_size=None), "hidden_size"),
    "a width that is no number": (_changed(hidden_size=float("nan")), "model.hidden_size = nan"),
    "a huge vocabulary": (_changed(vocab_size=10**15, should_pad_vocab=True), "model.vocab_size"),
    "a width of a date": (
        lambda: LLAMA_TEXT.replace("hidden_size: 4096", "hidden_size: 2024-01-01", 1).encode(),
        "model.hidden_size = a date",
    ),
    "endless layers": (_changed(pipeline_model_parallel_layout=["t"] * 10**4), "10,000 entries"),
    "a million ranks": (_changed(tensor_model_parallel_size=10**9), "tp = 1000000000"),
    "a key that is a number": (
        lambda: yaml.safe_dump(run("llama") | {"model": {**RUNS["llama"]["model"], 7: 1}}).encode(),
        "the key 7",
    ),
    "no model": (lambda: b"peft: null\n", "has no model section"),
    "a list": (lambda: b"[1, 2]\n", "holds no mapping"),
    "nothing": (lambda: b"", "holds no mapping"),
    "too large": (lambda: b"#" * (600 * 1024), "cannot be read"),
    "not UTF-8": (lambda: b"model: \xff\xfe\xfa", "is not the YAML"),
    "a peft that runs": (
        lambda: yaml.safe_dump(RUNS["llama"] | {"peft": EXECUTE}).encode(),
        "_target_ = 'os.system' is no PEFT type",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_clear_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, said = HOSTILE[name]
    (tmp_path / "run_config.yaml").write_bytes(make())
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "run_config.yaml", "--isolated", "-q"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert len(err) < 700
    assert [path.name for path in tmp_path.iterdir()] == ["run_config.yaml"]


def test_a_run_without_experts_has_the_etp_that_its_provider_sets(tmp_path: Path) -> None:
    values = run("llama", tensor_model_parallel_size=8, expert_tensor_parallel_size=8, sequence_parallel=True)
    found = model_of_run(written(tmp_path, values))
    assert (found.layout.tp, found.layout.etp) == (8, None)


def test_a_run_that_dispatches_tokens_with_deepep_is_built_without_it(tmp_path: Path) -> None:
    path = written(tmp_path, run("qwen_moe", moe_token_dispatcher_type="flex", num_layers=1))
    plan = plan_job(Job(model=str(path)))
    assert plan.totals == plan_job(Job(model=str(written(tmp_path, run("qwen_moe", num_layers=1))))).totals
    assert any("needs DeepEP" in note for note in plan.model.notes)


def test_a_run_without_yarn_may_name_its_fields(tmp_path: Path) -> None:
    values = run("llama", yarn_beta_fast=None, yarn_rotary_scaling_factor=None)
    assert plan_job(Job(model=str(written(tmp_path, values)), model_overrides={"num_layers": 1})).totals
