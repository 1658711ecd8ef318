"""A recipe of Megatron-Bridge is a job: what it returns is read as the file of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from clora.errors import DeviceError, ModelError
from clora_inspect.bridge.installed import Installed
from clora_inspect.bridge.recipes import modules_of_recipes
from clora_inspect.job.job import Job
from clora_inspect.pipeline import plan_job
from clora_inspect.sources import architectures
from clora_inspect.sources.run.recipe import is_recipe, path_of, recipe_at

Commands = Callable[[Sequence[Sequence[str]]], list[Any]]


def config_of(name: str) -> str:
    path = architectures.path_of(name)
    assert path is not None
    return str(path)


def recipe(name: str, model: str) -> str:
    return f"recipe:{name}@{config_of(model)}"


JSON = ("--isolated", "-f", "json")

SMALL = ("--set", "model.num_layers=2")

TOLD: dict[str, tuple[tuple[str, ...], int, str]] = {
    # the command line, its exit status, and what it says
    "a wrong letter": (
        ("recipe:llama3_8b_pfet_config",),
        2,
        "Megatron-Bridge 0.3.1 has no recipe llama3_8b_pfet_config. Did you mean llama3_8b_peft_config",
    ),
    "no such config": (("recipe:llama3_8b_peft_config@no/such",), 2, "there is no file no/such"),
    "via bridge": (
        (recipe("llama3_8b_peft_config", "llama3-8b"), "--via", "bridge", "--lora-as-canonical"),
        2,
        "a run is built from its own fields",
    ),
}

TOLD_AT_NIGHT: dict[str, tuple[tuple[str, ...], int, str]] = {
    "the Hub": (
        ("recipe:llama3_8b_peft_config",),
        3,
        "it loads the config.json of meta-llama/Meta-Llama-3-8B from the Hugging Face Hub.",
    ),
    "an argument": (("recipe:llama3_8b_low_precision_pretrain_config",), 2, "it needs mixed_precision_recipe"),
    "LoRA": ((recipe("llama3_8b_peft_config", "llama3-8b"),), 2, "the peft section is LoRA of Megatron-Bridge"),
    "layers of its own": (("recipe:olmoe_7b_peft_config",), 3, "OlMoEModelProvider of Megatron-Bridge makes layers"),
    "a package": (("recipe:qwen25_vl_3b_finetune_config",), 3, "pip install 'pillow'"),
}


def _check(with_bridge: Commands, cases: dict[str, tuple[tuple[str, ...], int, str]]) -> None:
    ran = with_bridge([("plan", *words, "--isolated", "-q") for words, _, _ in cases.values()])
    for (name, (_, status, told)), each in zip(cases.items(), ran, strict=True):
        assert each.status == status, (name, each)
        assert told in each.err, (name, each)
        assert "internal" not in each.err, (name, each)


def test_a_recipe_is_a_job_with_its_layout_and_lora(with_bridge: Commands) -> None:
    _check(with_bridge, TOLD)
    job = recipe("llama3_70b_peft_config", "llama3-70b")
    ours = ("llama3-70b", "--tp", "8", "--dim", "16", "--alpha", "32")
    made, expected, lora = with_bridge(
        [
            ("plan", job, "--lora-as-canonical", *SMALL, *JSON),
            ("plan", *ours, *SMALL, *JSON),
            ("plan", "llama3-8b", "--lora", job, "--lora-as-canonical", *SMALL, *JSON),
        ]
    )
    assert made.status == expected.status == lora.status == 0, (made, expected, lora)
    plan, same, adapted = (json.loads(each.out) for each in (made, expected, lora))
    assert plan["rank_classes"][0]["placements"] == same["rank_classes"][0]["placements"]
    assert plan["totals"] == same["totals"]
    # mixed_precision = "bf16_mixed" decides it, not the config.
    assert plan["model"]["dtype"] == "bfloat16"
    assert (adapted["lora"]["dim"], adapted["lora"]["alpha"]) == (16, 32)


@pytest.mark.nightly
def test_what_a_recipe_wants_is_said(with_bridge: Commands) -> None:
    _check(with_bridge, TOLD_AT_NIGHT)


BUILT = {
    # recipe -> its config
    "kimi_k2_pretrain_config": "kimi-k2",
    "deepseek_v3_pretrain_config": "deepseek-v3",
    "qwen3_600m_peft_config": "qwen3-0.6b",
    "qwen3_30b_a3b_peft_config": "qwen3-30b-a3b",
    "qwen25_500m_peft_config": "qwen2.5-0.5b",
    "llama31_405b_peft_config": "llama3.1-405b",
}


@pytest.mark.nightly
def test_recipes_make_the_models_of_their_configs(with_bridge: Commands) -> None:
    options = ("--lora-as-canonical", *JSON)
    ran = with_bridge([("plan", recipe(name, model), *options) for name, model in BUILT.items()])
    for (name, model), each in zip(BUILT.items(), ran, strict=True):
        assert each.status == 0, (name, each)
        overrides = {"mtp_num_layers": 1} if model == "deepseek-v3" else {}
        base = plan_job(Job(model=model, model_overrides=overrides)).totals.base_params
        assert json.loads(each.out)["totals"]["base_params"] == base, name


def test_without_megatron_bridge_it_is_told_how_a_recipe_becomes_a_job() -> None:
    told = r"not installed here .*write what it makes, llama3_8b_peft_config\(\)\.to_yaml"
    with pytest.raises(DeviceError, match=told):
        plan_job(Job(model="recipe:llama3_8b_peft_config"))


def test_a_users_own_module_is_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_recipe("recipe:build")
    (tmp_path / "recipe.py").write_text("")
    assert not is_recipe("recipe:build")
    with pytest.raises(ModelError, match="has no build"):
        plan_job(Job(model="recipe:build"))


@pytest.mark.parametrize("model", ["recipe:a", "recipe:a@b/c", "recipe:a@/b:c/d.json"])
def test_the_path_of_a_recipe_is_read_back(model: str) -> None:
    assert recipe_at(path_of(model)) == model
    assert recipe_at(Path(model)) is None


def test_names_of_recipes_are_read_without_importing(tmp_path: Path) -> None:
    family = tmp_path / "recipes" / "llama"
    (family / "h100").mkdir(parents=True)
    (family / "__init__.py").write_text("from .llama3 import (\n    x as in_a_list_config,\n)\nraise ImportError\n")
    (family / "llama3.py").write_text("from .h100.llama3 import (\n    long_config as short_config,\n)\n1 / 0\n")
    (family / "h100" / "llama3.py").write_text("def long_config():\n    ...\ndef _hidden_config():\n    ...\n")
    (tmp_path / "recipes" / "common.py").write_text("def no_recipe_config(): ...\n")
    assert modules_of_recipes(Installed("1.0", tmp_path)) == {
        "short_config": "llama.llama3",
        "long_config": "llama.h100.llama3",
    }
