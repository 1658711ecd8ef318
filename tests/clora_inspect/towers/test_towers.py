"""The decoder is the decoder wherever it hangs, and other towers are told apart from it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from clora import CanonicalLoRA
from clora.plan import TowerKind
from clora_inspect.cli import main
from clora_inspect.formats.look import Look
from clora_inspect.formats.plan.stages import stage_lines
from clora_inspect.formats.plan.text import render
from clora_inspect.graph.folding import folded
from clora_inspect.graph.formats import dot, mermaid
from clora_inspect.graph.placement_graph import PlacementGraph
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import JobPlan, decode, encode
from clora_inspect.pipeline import plan_job
from clora_inspect.rules import run_rules
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.snapshot import record
from clora_inspect.snapshot.errors import SnapshotError
from clora_inspect.tui.job.plan_file import plan_of_snapshot
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

MODELS = Path(__file__).with_name("modalities.py")
TP2_PP2 = Layout(tp=2, pp=2)


@cache
def _plan(function: str, layout: Layout, *targets: str) -> JobPlan:
    lora: dict[str, Any] = {"dim": 8, **({"target_modules": list(targets)} if targets else {})}
    return plan_job(Job(model=f"{MODELS}:{function}", lora=CanonicalLoRA(**lora), layout=layout))


def _findings(plan: JobPlan, code: str) -> list[tuple[str, str | None]]:
    job = PlannedJob(plan, targets_written=True)
    return [(each.message, each.help) for each in run_rules(job) if each.code == code]


def test_a_snapshot_keeps_the_towers_and_needs_none_of_a_language_model() -> None:
    plan = _plan("llava", Layout())
    written = record.encode(record.take(plan, "llava"))
    opened = plan_of_snapshot(record.decode(written, "llava.json"))
    assert opened.towers == plan.towers
    assert opened.rank_classes[0].placements
    assert {opened.towers.of(each.module).path for each in opened.rank_classes[0].placements} == {
        "language_model",
        "vision_model",
        "vision_projection",
    }
    assert b'"towers"' not in record.encode(record.take(_plan("bare", Layout()), "bare"))
    damaged = written.replace(b'"path":"language_model"', b'"path":"language_model..x"')
    with pytest.raises(SnapshotError, match=re.escape("base.towers[0]: a path is 'language_model..x'")):
        record.decode(damaged, "llava.json")


KINDS = {
    "llava": {
        "language_model": (TowerKind.LANGUAGE, ("language_model.decoder",), True),
        "vision_model": (TowerKind.VISION, ("vision_model.decoder",), False),
        "vision_projection": (TowerKind.PROJECTOR, (), False),
    },
    "seeing": {
        "language_model": (TowerKind.LANGUAGE, ("language_model.decoder",), True),
        "visual": (TowerKind.VISION, ("visual.blocks",), False),
        "merger": (TowerKind.PROJECTOR, (), True),
    },
    "headed": {"model": (TowerKind.LANGUAGE, ("model.decoder",), True)},
    "own_layers": {"": (TowerKind.LANGUAGE, ("layers",), None)},
    "encoder": {"": (TowerKind.LANGUAGE, ("encoder",), False)},
    "bare": None,
    "mtp": None,
}


@pytest.mark.parametrize("function", KINDS)
def test_towers_are_found_by_class_and_by_name(function: str) -> None:
    targets = ("attention",) if function == "own_layers" else ()
    towers = _plan(function, Layout(), *targets).model.towers
    expected = KINDS[function]
    if expected is None:
        assert towers is None
    else:
        assert {each.path: (each.kind, each.blocks, each.gated) for each in towers or ()} == expected


@pytest.mark.parametrize("function", ["llava", "seeing"])
@pytest.mark.parametrize("layout", [Layout(), TP2_PP2], ids=["one-rank", "tp2-pp2"])
def test_the_language_model_counts_as_the_same_model_alone(function: str, layout: Layout) -> None:
    plan, alone = _plan(function, layout), _plan("bare", layout)
    totals, expected = plan.totals, alone.totals
    assert (totals.linears, totals.adapted_linears) == (expected.linears, expected.adapted_linears) == (28, 28)
    assert [plan.layers_of(ranks) for ranks in plan.rank_classes] == [
        alone.layers_of(ranks) for ranks in alone.rank_classes
    ]
    inside = [each for ranks in plan.rank_classes for each in ranks.placements if plan.towers.in_decoder(each.module)]
    expected_inside = [each for ranks in alone.rank_classes for each in ranks.placements]
    assert [(each.global_layer, each.part, each.a_shape, each.b_shape) for each in inside] == [
        (each.global_layer, each.part, each.a_shape, each.b_shape) for each in expected_inside
    ]


def test_a_head_around_a_language_model_changes_no_count_and_no_finding() -> None:
    plan, alone = _plan("headed", Layout(tp=2), "linear_q"), _plan("bare", Layout(tp=2), "linear_q")
    # The head has 128 weights and a bias.
    assert plan.totals.base_params == alone.totals.base_params + 129
    assert (plan.totals.linears, plan.totals.adapted_linears) == (28, 4)
    assert _findings(plan, "CL105") == _findings(alone, "CL105") != []
    assert not _findings(plan, "CL106")
    assert plan.model.config == alone.model.config


def test_only_other_towers_are_outside_the_decoder_and_the_advised_patterns_match() -> None:
    (vision, fix), (projector, other_fix) = _findings(_plan("llava", TP2_PP2), "CL106")
    assert vision == "8 adapters in vision_model, outside the decoder"
    assert projector == "2 adapters in vision_projection, outside the decoder"
    assert fix == other_fix == "to keep to the decoder write patterns: language_model.decoder.*.NAME"
    advised = _plan("llava", TP2_PP2, *(f"language_model.decoder.*.{name}" for name in ("linear_q", "linear_proj")))
    assert advised.totals.placements == advised.totals.adapted_linears == 8
    assert not _findings(advised, "CL106")


def test_a_pattern_that_forgets_the_path_of_the_tower_is_told_with_it() -> None:
    plan = _plan("llava", Layout(), "decoder.*.linear_proj", "linear_q")
    ((_, fix),) = _findings(plan, "CL101")
    assert fix == "did you mean: language_model.decoder.*.linear_proj (4), vision_model.decoder.*.linear_proj (2)"


def test_a_language_model_that_is_left_out_is_told_and_towers_are_no_layers_of_it() -> None:
    plan = _plan("llava", Layout(), "vision_model.*.linear_proj")
    (attention, fix), (mlp, _) = _findings(plan, "CL105")
    assert attention.startswith("attention of the language model: 0 of 4 layers have an adapter")
    assert mlp.startswith("dense MLP of the language model: 0 of 4 layers have an adapter")
    assert fix is not None
    names = fix.removeprefix("to adapt them add: ").split(", ")
    assert "language_model.decoder.*.linear_proj" in names
    assert _plan("llava", Layout(), *names).totals.adapted_linears == 16
    # Layer 0 of the tower has an adapter, layer 0 of the language model has none.
    assert not _findings(plan, "CL418")


def test_a_fused_linear_that_is_adapted_as_a_whole_says_so() -> None:
    plan = _plan("llava", Layout(), "linear_q")
    ((message, fix),) = _findings(plan, "CL121")
    where = "vision_model.decoder.layers.{0..1}.self_attention.linear_qkv"
    assert message == f"q alone is targeted, and {where} is adapted as a whole: k and v are trained as well"
    assert fix == (
        "for the language model alone write: language_model.decoder.*.linear_q; "
        "or say so: add vision_model.*.linear_k, vision_model.*.linear_v"
    )
    said = _plan("llava", Layout(), "linear_q", "vision_model.*.linear_k", "vision_model.*.linear_v")
    assert not _findings(said, "CL121")
    assert said.totals.placements == plan.totals.placements
    # The MLPs of the tower have no gate, and nothing but their up projection is adapted.
    assert not _findings(_plan("llava", Layout(), "linear_fc1_up"), "CL113")


def test_a_tower_of_another_name_has_an_adapter_for_each_part() -> None:
    plan = _plan("seeing", Layout(), "linear_q")
    rows = {each.module: each.b_global_shape for ranks in plan.rank_classes for each in ranks.placements}
    assert rows["visual.blocks.layers.0.self_attention.linear_qkv"] == (32, 8)
    assert not _findings(plan, "CL121")


def test_stages_name_the_layers_of_each_tower() -> None:
    first, last = stage_lines(_plan("seeing", TP2_PP2), Look().glyphs)
    assert "layers {0..1} · visual layers {0..1}" in first
    assert "layers {2..3}" in last
    assert "visual" not in last


def test_tables_are_split_by_tower() -> None:
    text = render(_plan("llava", Layout(), "linear_proj"))
    titles = [line.strip() for line in text.splitlines() if line.endswith("rank 8")]
    assert titles == [
        "language_model (language) · attention · rank 8",
        "vision_model (vision) · attention · rank 8",
    ]
    assert "4 of 28 decoder linears" in text
    assert "unmatched in vision_projection: linear_fc1, linear_fc2" in text


def test_a_saved_plan_keeps_its_towers() -> None:
    plan = _plan("llava", TP2_PP2)
    read = decode(encode(plan), "plan.json")
    assert read.towers == plan.towers
    assert '"towers"' not in encode(_plan("bare", Layout())).decode()


def test_graphs_name_the_tower_of_each_module() -> None:
    graph = PlacementGraph.from_job_plan(_plan("llava", TP2_PP2))
    nodes = graph.to_networkx().nodes
    assert nodes["pp0/vision_model.decoder"]["tower_kind"] == "vision"
    assert nodes["pp1/language_model.decoder"]["tower"] == "language_model"
    for text in (mermaid.render(folded(graph)), dot.render(folded(graph))):
        assert all(
            f"{path}{kind}" in text.replace("<br/>", "").replace("\\n", "")
            for path, kind in (
                ("vision_model", "vision"),
                ("vision_projection", "projector"),
                ("language_model", "language"),
            )
        )
    alone = PlacementGraph.from_job_plan(_plan("bare", TP2_PP2)).to_networkx().nodes
    assert not any("tower" in data for _, data in alone(data=True))


# Command of a user, words of it: exit status, and what its report has and has not.
COMMANDS = {
    "defaults": (
        "check {models}:llava --no-snapshot",
        0,
        [
            "8 adapters in vision_model, outside",
            "2 adapters in vision_projection, outside",
            "language_model.decoder.*.NAME",
        ],
        ["in language_model, outside", "CL105"],
    ),
    "a pattern without the tower": (
        "plan {models}:llava --target-modules decoder.*.linear_proj",
        2,
        ["did you mean: language_model.decoder.*.linear_proj (4)"],
        ["decoder linears (100"],
    ),
    "vision alone": (
        "check {models}:llava --no-snapshot --target-modules vision_model.*.linear_proj",
        0,
        ["attention of the language model: 0 of 4 layers", "dense MLP of the language model: 0 of 4 layers"],
        ["CL106", "CL418"],
    ),
    "a wrapper": (
        "check {models}:headed --dim 4 --no-snapshot --target-modules linear_q,linear_v",
        0,
        ["CL105", "dense MLP: 0 of 4 layers"],
        ["CL106"],
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_say_the_same(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    words, status, has, has_not = COMMANDS[command]
    assert main(words.format(models=MODELS).split()) == status
    captured = capfd.readouterr()
    said = captured.out + captured.err
    assert [each for each in has if each not in said] == []
    assert [each for each in has_not if each in said] == []


def _verified(function: str, layout: Layout, procs: int, *proofs: str) -> dict[str, ProofStatus]:
    job = Job(model=f"{MODELS}:{function}", lora=CanonicalLoRA(dim=8), layout=layout)
    report = verify(Request(job=job, procs=procs, proofs=proofs))
    assert report.ok, [proof.detail for proof in report.proofs]
    return {proof.proof: proof.status for proof in report.proofs}


@pytest.mark.parametrize("function", ["llava", "seeing"])
def test_a_model_of_several_modalities_is_verified_on_one_rank(function: str) -> None:
    proofs = ("surgery", "zero-b", "merge", "gradients")
    found = _verified(function, Layout(), 1, *proofs)
    assert {found[proof] for proof in proofs} == {ProofStatus.PASSED}


def test_a_model_that_fills_rows_up_in_a_pipeline_is_proved_with_full_rows() -> None:
    found = _verified("llava", Layout(pp=2), 2, "causality", "layout")
    assert found["layout"] is ProofStatus.PASSED
    # A picture stands for several tokens, so that no dim of the output counts those of the text.
    assert found["causality"] is ProofStatus.SKIPPED


@pytest.mark.nightly
def test_a_pipeline_with_the_tower_on_its_first_stage_gives_what_one_rank_gives() -> None:
    found = _verified("seeing", TP2_PP2, 4)
    assert {name for name, status in found.items() if status is not ProofStatus.PASSED} == {
        "recompute",
        "dropout",
        "export",
    }
