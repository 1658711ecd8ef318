"""The gate finds in the live modules what a trainer has spoiled of the surgery: a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from small_gpt import TINY
from torch.nn import Parameter

from clora import CanonicalLoRA
from clora.wrappers import adapted_modules
from clora_inspect.job import plan as saved_plan
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.launch.comparison import compare_rank
from clora_inspect.launch.expected import read_expected
from clora_inspect.launch.live import read_rank
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROJ = "decoder.layers.{}.self_attention.linear_proj"


def _adapter(model: Any, layer: int = 0) -> Any:
    return next(module.adapters[None] for path, module in adapted_modules(model) if path == PROJ.format(layer))


def _swap_layers(model: Any) -> None:
    layers = model.decoder.layers
    layers[0], layers[1] = layers[1], layers[0]


def _tie(model: Any) -> None:
    _adapter(model, 1).linear_in.weight = _adapter(model, 0).linear_in.weight


def _tie_base(model: Any) -> None:
    layers = model.decoder.layers
    layers[1].self_attention.linear_proj.weight = layers[0].self_attention.linear_proj.weight


def _cast_one(model: Any) -> None:
    proj = model.decoder.layers[1].self_attention.linear_proj
    for parameter in proj.parameters():
        parameter.data = parameter.data.to(torch.float64)


SPOILT: dict[str, tuple[Callable[[Any], object], str, str]] = {
    "a shard of another shape": (
        lambda model: setattr(_adapter(model).linear_in, "weight", Parameter(torch.zeros(4, 31, dtype=torch.bfloat16))),
        PROJ.format(0),
        "A of the adapter is 4 x 31, and 4 x 32 was made",
    ),
    "a dim that is not the rank": (
        lambda model: setattr(_adapter(model), "dim", 8),
        PROJ.format(0),
        "its scale is alpha / 8, and its rank is 4",
    ),
    "on another device": (
        lambda model: _adapter(model).linear_out.to("meta"),
        PROJ.format(0),
        "B of the adapter is on meta, and its base is on cpu",
    ),
    "adapters that are tied": (_tie, PROJ.format(1), f"A of the adapter is also that of {PROJ.format(0)}"),
    "weights that are tied": (_tie_base, PROJ.format(1), f"the weight is also that of {PROJ.format(0)}"),
    "a weight of another dtype": (_cast_one, PROJ.format(1), "the weight is float64, and bfloat16 was asked for"),
    "layers in another order": (_swap_layers, "decoder.layers", "the layers run in the order 1, 0"),
    "a layer twice": (
        lambda model: model.decoder.layers.append(model.decoder.layers[1]),
        "decoder.layers",
        "the layers run in the order 0, 1, 1",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_a_trainer_spoils_is_named_at_its_place(name: str) -> None:
    spoil, where, text = SPOILT[name]
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        chunks = build_chunks(load_definition("llama3-8b").override(TINY), Layout())
        CanonicalLoRA(dim=4)(chunks)
        assert read_rank(chunks).not_in_effect == ()
        spoil(chunks[0])
        (told,) = read_rank(chunks).not_in_effect
    assert (told.where, told.text) == (where, text)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_experts_that_share_a_pair_are_no_alarm(shared: bool, grouped: bool) -> None:
    fields = {**TINY, "num_moe_experts": 4, "moe_ffn_hidden_size": 16, "moe_grouped_gemm": grouped, "mtp_num_layers": 1}
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        chunks = build_chunks(load_definition("qwen3-30b-a3b").override(fields), Layout())
        CanonicalLoRA(dim=4, share_expert_adapters=shared)(chunks)
        assert read_rank(chunks).not_in_effect == ()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda model: model.to(torch.float64), "the weights are float64, and bfloat16 was planned"),
        # The default of megatron-core, which the plan does not name.
        (lambda model: setattr(model.config, "moe_router_topk", 1), "moe_router_topk at its default -> 1"),
    ],
)
def test_a_run_that_is_not_as_its_plan(spoil: Callable[[Any], object], text: str, tmp_path: Path) -> None:
    fields = {**TINY, "num_moe_experts": 4, "moe_ffn_hidden_size": 16, "moe_router_topk": 2}
    lora = CanonicalLoRA(dim=4)
    file = tmp_path / "plan.json"
    plan = plan_job(Job(model="qwen3-30b-a3b", lora=lora, layout=Layout(), model_overrides=fields))
    file.write_bytes(saved_plan.encode(plan))
    expected = read_expected(file)
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        chunks = build_chunks(load_definition("qwen3-30b-a3b").override(fields), Layout())
        lora(chunks)
        assert compare_rank(expected, read_rank(chunks)) == ()
        spoil(chunks[0])
        assert text in [each.text for each in compare_rank(expected, read_rank(chunks))]
