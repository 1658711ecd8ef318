"""Any JSON value on any field of a model: an error with the field's name, or a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
import torch

from clora.errors import CloraError, ModelError
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.definition import MODEL_ARGUMENTS, ModelDefinition, load_definition
from clora_inspect.sources.field_types import fits, words_for
from clora_inspect.verify.job import verify
from clora_inspect.verify.request import Request


class Color(Enum):
    RED = 1


# ruff: noqa: UP007, UP045 (megatron-core writes its annotations in both ways)
FITS = [
    # annotation, values that fit, values that do not, what is said of them
    (bool, [True, False], [None, 1, 0, "true", [], 1.0], "true or false"),
    (int, [0, -1, 2**62], [None, True, 1.0, "1", [1]], "a whole number"),
    (float, [0.5, 1], [None, True, "1", [1.0]], "a number"),
    (str, ["", "x"], [None, 1, ["x"]], "a string"),
    (Optional[int], [None, 1], [False, 1.5, "x"], "a whole number or null"),
    (int | None, [None, 1], [False, 1.5, "x"], "a whole number or null"),
    (Literal["a", "b"], ["a"], [None, "c", ["a"], 1], "one of 'a', 'b'"),
    (Literal[1], [1], [True, 1.0, "1"], "1"),
    (list[int], [[], [1]], [None, 1, [True], ["x"], [[1]], {}], "a list of whole numbers"),
    (Union[int, list[int], None], [None, 1, [1, 2]], ["x", [None]], "a whole number, a list of whole numbers or null"),
    (tuple[int, int], [[1, 2], (1, 2)], [None, [], [1], [1, 2, 3], [1, "x"]], "a list of 2 whole numbers"),
    (Color, ["RED", Color.RED], [None, "red", 1, ["RED"]], "'RED'"),
    (torch.dtype, [torch.float32], [None, "float32", 5], "an object of Python"),
    (Optional[Callable[[int], int]], [None, abs], ["abs", 1, []], "null or an object of Python"),
    (Any, [None, 1, {}], [], "an object of Python"),
]


@pytest.mark.parametrize(("declared", "right", "wrong", "words"), FITS)
def test_a_value_is_compared_with_the_annotation(
    declared: Any, right: list[object], wrong: list[object], words: str
) -> None:
    assert [value for value in right if not fits(value, declared)] == []
    assert [value for value in wrong if fits(value, declared)] == []
    assert words_for(declared).startswith(words)


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 1.5, -0.5, "x", "", "0"),
    *([], {}, [1], ["x"], [None], {"a": 1}, [[1]], 2**62, 1e308),
)
UNDECLARED = ("yarn_mscale", "yarn_beta_fast", "embedding_multiplier", "final_logit_softcapping")
MODELS = ("qwen3-30b-a3b", "deepseek-v3", "nemotron-h-8b")


def _variants(model: str, names: list[str], layers: int) -> Iterator[tuple[str, Any, ModelDefinition | CloraError]]:
    base = load_definition(model).override({"num_layers": layers})
    for name in names:
        for value in VALUES:
            try:
                yield name, value, base.override({name: value})
            except CloraError as error:
                yield name, value, error


def _try_all(model: str, layout: Layout, *, every: int) -> tuple[int, list[tuple[str, Any, str]]]:
    """Make the config of each variant, and build one in `every` of those that have one.

    Returns:
        The number of variants that have a config, and the errors of the others.
    """
    with quiet():
        from clora_inspect.sources.build import build_chunks
        from clora_inspect.sources.config import make_config
        from clora_inspect.virtual import megatron_on, virtual_cluster

        accepted, errors = 0, []
        with megatron_on("meta"), virtual_cluster(layout, 0):
            from megatron.core.transformer import MLATransformerConfig

            names = [field.name for field in dataclasses.fields(MLATransformerConfig)]
            for name, value, definition in _variants(model, [*names, *sorted(MODEL_ARGUMENTS), *UNDECLARED], layout.pp):
                try:
                    if isinstance(definition, CloraError):
                        raise definition
                    definition.check(layout)
                    make_config(definition, layout, torch.device("meta"))
                    accepted += 1
                    if accepted % every == 0:
                        build_chunks(definition, layout)
                except CloraError as error:
                    errors.append((name, value, str(error)))
    return accepted, errors


def _assert_documented(errors: list[tuple[str, Any, str]]) -> None:
    assert all(len(text) < 1_000 and text.strip() for _, _, text in errors)
    assert [error for error in errors if error[0] not in error[2] and "megatron-core" not in error[2]] == []


@pytest.mark.parametrize("model", MODELS)
def test_every_value_on_every_field_is_a_plan_or_an_error_of_the_user(model: str) -> None:
    accepted, errors = _try_all(model, Layout(), every=40)
    assert accepted > 500
    assert len(errors) > 3_000
    _assert_documented(errors)


@pytest.mark.nightly
@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2, pp=2)], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_every_value_on_every_field_is_built_or_refused(model: str, layout: Layout) -> None:
    accepted, errors = _try_all(model, layout, every=1)
    assert accepted > 500
    _assert_documented(errors)


MESSAGES = [
    ("qk_layernorm", 1, "model.qk_layernorm = 1: it is true or false."),
    ("moe_router_load_balancing_type", 5, "it is a string or a list of strings."),
    ("moe_token_dispatcher_type", "x", "it is one of 'allgather', 'alltoall', 'flex'."),
    ("window_size", [1], "it is a list of 2 whole numbers or null."),
    ("init_method", "normal", "it is null or an object of Python, which only a model function of your own can set."),
    ("rotary_base", "x", "model.rotary_base = 'x': it is a number."),
    ("share_embeddings_and_output_weights", "no", "it is true or false."),
    ("yarn_beta_fast", "x", "model.yarn_beta_fast = 'x': it is a number or null."),
    ("cuda_graph_scope", "x", "it does not know 'x'"),
]


@pytest.mark.parametrize(("name", "value", "words"), MESSAGES)
def test_the_message_has_the_field_the_value_and_what_it_should_be(name: str, value: object, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        plan_job(Job(model="qwen3-30b-a3b", model_overrides={"num_layers": 1, "num_moe_experts": 8, name: value}))
    assert words in str(caught.value)


def test_a_name_stands_for_a_member_of_an_enumeration() -> None:
    plan = plan_job(Job(model="llama3-8b", model_overrides={"num_layers": 1, "attention_backend": "flash"}))
    assert plan.model.config["attention_backend"] == "flash"


def test_planning_writes_no_log_of_the_config(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    plan_job(Job(model="llama3-8b", model_overrides={"num_layers": 1, "config_logger_dir": str(folder)}))
    assert not folder.exists()


def test_a_function_whose_config_asks_for_a_log_writes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """megatron-core would write `0/GPTModel.rank_....json` into the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(
        "def build(layout):\n"
        "    from megatron.core.models.gpt import GPTModel\n"
        "    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec\n"
        "    from megatron.core.transformer import TransformerConfig\n\n"
        "    config = TransformerConfig(\n"
        "        num_layers=1, hidden_size=64, num_attention_heads=4, gated_linear_unit=True, config_logger_dir='0'\n"
        "    )\n"
        "    return GPTModel(config, get_gpt_layer_with_transformer_engine_spec(), 96, 32)\n"
    )
    plan_job(Job(model="model.py:build"))
    report = verify(Request(job=Job(model="model.py:build")))
    assert report.ok
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["model.py"]
