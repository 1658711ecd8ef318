"""The small model keeps what matters of the job's: kinds of layers and their order, ratios, an
uneven pipeline, and the meaning of targets by layer number.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from clora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify.model.packing import fc1_rows, on_rank, qkv_rows
from clora_inspect.verify.small.fitting import fitted, larger_runs
from clora_inspect.verify.small.layerwise import one_of_each
from clora_inspect.verify.small.shrink import Shrunk, expanded, path_in_job, shrink

ONE = Layout()


@cache
def shrunk(model: str, job: Layout = ONE, run: Layout = ONE, targets: tuple[str, ...] = ()) -> Shrunk:
    lora = CanonicalLoRA(target_modules=list(targets)) if targets else CanonicalLoRA()
    plan = plan_job(Job(model=model, layout=job, lora=lora))
    return shrink(load_definition(model), plan, job, run)


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ("llama3-8b", (0, 1)),
        ("deepseek-v2-lite", (0, 1, 2)),
        ("gpt-oss-20b", (0, 1, 2)),
        ("qwen3-next-80b-a3b", (0, 1, 3, 4)),
        ("nemotron-h-8b", tuple(range(9))),
    ],
)
def test_every_kind_of_layer_and_every_change_is_kept(model: str, layers: tuple[int, ...]) -> None:
    small = shrunk(model)
    assert small.layers == layers
    assert small.definition.config["num_layers"] == len(layers)


def test_lists_with_an_entry_for_every_layer_follow_the_layers_that_are_kept() -> None:
    assert shrunk("deepseek-v2-lite").definition.config["moe_layer_freq"] == [0, 1, 1]
    assert shrunk("qwen3-next-80b-a3b").definition.config["linear_attention_freq"] == [1, 1, 0, 1]
    assert shrunk("nemotron-h-8b").definition.model["hybrid_override_pattern"] == "M-M-M-M*-"


def test_intervals_mark_the_layers_that_megatron_core_marks() -> None:
    assert expanded("moe_layer_freq", 2, 4) == [1, 0, 1, 0]
    assert expanded("linear_attention_freq", 2, 4) == [1, 0, 1, 0]
    assert expanded("no_rope_freq", 2, 4) == [0, 1, 0, 1]


def test_heads_to_groups_experts_per_token_and_router_groups_are_kept() -> None:
    small, large = shrunk("deepseek-v2-lite").definition.config, load_definition("deepseek-v2-lite").config
    assert small["moe_router_topk"] == large["moe_router_topk"] <= small["num_moe_experts"] < large["num_moe_experts"]
    qwen = shrunk("qwen2.5-0.5b").definition.config
    assert qwen["num_attention_heads"] // qwen["num_query_groups"] == 7
    assert qwen["add_qkv_bias"]


def test_more_ranks_than_groups_stay_more_ranks_than_groups() -> None:
    job = Layout(tp=8)
    plan = plan_job(Job(model="qwen3-30b-a3b", layout=job))
    definition = load_definition("qwen3-30b-a3b")
    cut = shrink(definition, plan, job, Layout(tp=2)).definition.config
    assert cut["num_query_groups"] == 1
    alone = shrink(definition, plan, job, ONE)
    assert any("4 key-value groups on tp8" in sentence for sentence in alone.missing)


def test_an_uneven_pipeline_stays_uneven() -> None:
    small = shrunk("deepseek-v3", Layout(pp=16), Layout(pp=2))
    assert len(small.layers) == small.definition.config["num_layers"]
    assert "num_layers_in_last_pipeline_stage" in small.definition.config
    assert any("stays uneven" in change for change in small.changes)


def test_targets_by_number_name_the_layers_that_stand_for_them() -> None:
    small = shrunk("llama3-8b", targets=("*.layers.7.*.linear_q", "linear_v"))
    assert small.targets is not None
    (targets,) = small.targets
    number = small.layers.index(7)
    assert [target for target in targets if target.endswith("linear_q")] == [
        f"decoder.layers.{number}.self_attention.linear_q"
    ]
    assert path_in_job(f"decoder.layers.{number}.self_attention.linear_qkv", small.layers).startswith(
        "decoder.layers.7."
    )


@pytest.mark.parametrize(
    ("job", "ranks", "kept", "dropped"),
    [
        (Layout(tp=8, pp=2, etp=1), 1, Layout(), ("tp8", "pp2", "sp")),
        (Layout(tp=8, etp=1), 2, Layout(tp=2, etp=1, sp=True), ("tp8 is shown as tp2",)),
        (Layout(tp=2, ep=4, etp=1, pp=2), 4, Layout(tp=2, ep=2, etp=1, pp=2, sp=True), ("ep4 is shown as ep2",)),
        (Layout(cp=2, tp=2, etp=1), 2, Layout(tp=2, etp=1, sp=True), ("cp2: not shown",)),
        # A job that splits its experts as it splits the rest is shown so.
        (Layout(tp=4), 2, Layout(tp=2, etp=2, sp=True), ("tp4 is shown as tp2", "etp4 is shown as etp2")),
        (Layout(), 2, Layout(), ("2 copies of the layout",)),
    ],
)
def test_a_layout_is_fitted_to_the_ranks_and_what_is_dropped_is_said(
    job: Layout, ranks: int, kept: Layout, dropped: tuple[str, ...]
) -> None:
    run, said = fitted(job, ranks)
    assert (run.label, run.model_world) == (kept.label, kept.model_world)
    assert len(said) == len(dropped)
    assert all(any(sentence.startswith(words) for sentence in said) for words in dropped), said


@pytest.mark.parametrize(
    ("job", "most", "runs"),
    [
        (Layout(tp=4, pp=2, etp=1), 64, {2: "tp2 sp", 4: "tp2 pp2 sp", 8: "tp4 pp2 sp"}),
        (Layout(tp=4, pp=2, etp=1), 5, {2: "tp2 sp", 4: "tp2 pp2 sp"}),
        (Layout(tp=6, etp=1, sp=False), 64, {2: "tp2", 3: "tp3", 6: "tp6"}),
        (Layout(), 64, {}),
        (Layout(cp=4), 64, {}),  # the proofs give every rank whole sequences
    ],
)
def test_numbers_of_ranks_that_show_more_of_a_layout(job: Layout, most: int, runs: dict[int, str]) -> None:
    assert {ranks: layout.label for ranks, layout in larger_runs(job, most)} == runs


def test_at_true_width_each_kind_has_one_layer_and_experts_are_streamed() -> None:
    plan = plan_job(Job(model="deepseek-v3"))
    dense, sparse = one_of_each(load_definition("deepseek-v3"), plan, dtype="float32")
    assert (dense.layer, dense.alike, sparse.layer, sparse.alike) == (0, "{0..2}", 3, "{3..60}")
    assert sparse.definition.config["num_moe_experts"] == 256
    assert sparse.definition.config["hidden_size"] == 7168
    assert any("all 256 routed experts" in change and "45 GB in fp32" in change for change in sparse.changes)


def test_experts_that_are_modules_of_their_own_are_as_many_as_fit() -> None:
    fields = {"moe_grouped_gemm": False, "num_layers": 4}
    plan = plan_job(Job(model="deepseek-v3", model_overrides=fields))
    *_, sparse = one_of_each(load_definition("deepseek-v3").override(fields), plan, dtype="float32")
    assert sparse.definition.config["num_moe_experts"] == 16
    assert any("16 of 256 routed experts" in change for change in sparse.changes)


def _runs(rows: list[Any]) -> list[tuple[str, int]]:
    return [(part, number) for part, number in rows if number % 2 == 0]


def test_packing_is_megatron_cores() -> None:
    assert _runs(qkv_rows(heads=4, groups=2, channels=2, gate=False)) == [
        ("q", 0), ("q", 2), ("k", 0), ("v", 0), ("q", 4), ("q", 6), ("k", 2), ("v", 2)
    ]  # fmt: skip
    assert on_rank(fc1_rows(rows=8, ranks=2), 1, 2) == [("gate", 2), ("gate", 3), ("up", 2), ("up", 3)]
