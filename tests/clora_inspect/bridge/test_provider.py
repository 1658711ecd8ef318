"""Megatron-Bridge converts and builds the golden configs: its models are ours, module by module,
and its canonical LoRA differs from ours in them only where we know why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from with_bridge import run_all

from clora_inspect.snapshot.bridge_reasons import REASONS

# Every test builds models with the other package, in processes of its own.
pytestmark = pytest.mark.nightly

Commands = Callable[[Sequence[Sequence[str]]], list[Any]]

CONFIGS = json.loads((Path(__file__).parents[2] / "golden/configs.json").read_text())
LARGE = {"deepseekv3-64L", "deepseekv3-default", "gptoss-default", "qwen3-30b-a3b", "qwen3next-default"}
"""Configs of many experts or layers, which take seconds each."""

OTHER_CLASSES = {"gemma2-default": ["the model is a GPTModel, it was a Gemma2Model"]}
"""Config -> what a diff says of the base, whose modules are the same."""


def _check(with_bridge: Commands, folder: Path, names: Sequence[str]) -> None:
    """Compare what Megatron-Bridge builds of `names`, and adapts in them, with what we do."""
    layout = ("--tp", "2", "--etp", "1", "--isolated", "-f", "json")
    paths = [folder / f"{name}.json" for name in names]
    for name, path in zip(names, paths, strict=True):
        path.write_text(json.dumps(CONFIGS[name]["hf_config"]))
    ran = with_bridge(
        [
            *(("diff", str(path), f"bridge:{path}", *layout) for path in paths),
            *(("diff", str(path), "--implementation", "megatron-bridge", *layout) for path in paths),
        ]
    )
    for name, base, adapters in zip(names, ran[: len(paths)], ran[len(paths) :], strict=True):
        [same] = json.loads(base.out)["diffs"]
        assert same["kept"] > 0, name
        # A diff compares class, path and size of every module of the base as well.
        assert (same["lines"], same["base"]) == ([], OTHER_CLASSES.get(name, [])), name
        assert adapters.status in (0, 1), (name, adapters)
        for line in json.loads(adapters.out)["diffs"][0]["lines"]:
            assert line["why"] in REASONS.values(), (name, line)


def test_what_megatron_bridge_builds_is_what_we_build(with_bridge: Commands, tmp_path: Path) -> None:
    _check(with_bridge, tmp_path, [name for name in CONFIGS if name not in LARGE])


@pytest.mark.nightly
def test_what_megatron_bridge_builds_of_large_models_is_what_we_build(with_bridge: Commands, tmp_path: Path) -> None:
    _check(with_bridge, tmp_path, sorted(LARGE))


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    # a change of a config.json, options, and what is said; "" where it is planned
    "a pipeline in chunks": ({}, ("--pp", "2", "--vpp", "2"), ""),
    "a field": ({}, ("--set", "model.ffn_hidden_size=1024"), ""),
    "a dtype": ({}, ("--set", "model.params_dtype=float16"), ""),
    "no such field": ({}, ("--set", "model.no_such=1"), "--set model.no_such: Megatron-Bridge's"),
    "a field of the layout": ({}, ("--set", "model.tensor_model_parallel_size=2"), "write --tp"),
    "no conversion": (
        {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
        (),
        "Megatron-Bridge 0.3.1 builds no mixtral: it has no conversion for it",
    ),
    "no class": ({"model_type": "no_such_model"}, (), "Unrecognized model identifier: no_such_model"),
    "another head": ({"architectures": ["Qwen3ForRewardModel"]}, (), "Qwen3ForRewardModel"),
    "a billion layers": ({"num_hidden_layers": 10**9}, (), "num_hidden_layers = 1e+09, and 0 to 2,048"),
    "layers below 0": ({"num_hidden_layers": -3}, (), "num_hidden_layers = -3"),
    "a huge width": ({"hidden_size": 10**18}, (), "hidden_size = 1e+18"),
    "a width of text": ({"hidden_size": "wide"}, (), "cannot build it"),
    "heads of null": ({"num_attention_heads": None}, (), "cannot build it"),
    "no heads": ({"num_attention_heads": 0}, (), "cannot build it"),
}


def test_a_config_is_built_or_refused_in_one_sentence(with_bridge: Commands, tmp_path: Path) -> None:
    small = CONFIGS["qwen3-0.6b"]["hf_config"] | {"num_hidden_layers": 4, "layer_types": None}
    # Code of the Hub: it is not looked at.
    small |= {"auto_map": {"AutoConfig": "evil--config.Evil", "AutoModelForCausalLM": "evil--model.Evil"}}
    for number, (change, _, _) in enumerate(CASES.values()):
        (tmp_path / f"{number}.json").write_text(json.dumps(small | change))
    ran = with_bridge(
        [
            ("plan", f"{tmp_path}/{number}.json", "--via", "bridge", *options, "--isolated", "-q")
            for number, (_, options, _) in enumerate(CASES.values())
        ]
    )
    for (name, (_, _, told)), each in zip(CASES.items(), ran, strict=True):
        errors = [line for line in each.err.splitlines() if "error:" in line]
        if told:
            assert (each.status, len(errors)) == (2, 1), (name, each)
            assert told in errors[0], (name, each)
            assert "internal" not in each.err, (name, each)
        else:
            assert (each.status, errors) == (0, []), (name, each)


def test_a_family_that_we_do_not_know_goes_to_megatron_bridge_if_there_is_one(
    with_bridge: Commands, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    [there] = with_bridge([("plan", str(tmp_path), "--isolated")])
    assert (there.status, "Megatron-Bridge 0.3.1 cannot build it" in there.err) == (2, True), there
    here, told = run_all(
        [("plan", str(tmp_path), "--isolated"), ("plan", "llama3-8b", "--via", "bridge", "--isolated")]
    )
    assert (here.status, "not supported" in here.err) == (2, True), here
    assert (told.status, "megatron-bridge: it is not installed here" in told.err) == (3, True), told
