"""The panes without a terminal: golden text, and what must hold for every row of every plan at
every width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from golden_text import assert_golden

from clora_inspect.job.finding import Finding, Location, Severity
from clora_inspect.snapshot.diff import compare
from clora_inspect.snapshot.record import take
from clora_inspect.tui.panes.drawing import Branch, drawing
from clora_inspect.tui.panes.findings import finding_detail, finding_lines, node_of
from clora_inspect.tui.panes.graph import graph_lines
from clora_inspect.tui.panes.lines import Line, Target, Tone, keep_end, keep_start, line, plain, width_of, wrapped
from clora_inspect.tui.panes.placement import placement_lines
from clora_inspect.tui.panes.plan_diff import diff_plans, plan_diff_lines
from clora_inspect.tui.panes.ranks import ranks_lines
from clora_inspect.tui.panes.scene import Scene
from clora_inspect.tui.panes.snapshot import diff_lines, snapshot_lines
from clora_inspect.tui.panes.source import source_lines
from clora_inspect.tui.panes.tree_row import root_line, row_line
from clora_inspect.tui.tree.build import model_nodes
from clora_inspect.tui.tree.rows import TreeModel, TreeRow

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift

WIDTHS = (24, 40, 76, 100, 160)


def scene_of(
    plan: JobPlan, rank: int | None = None, drift: Drift | None = None, classes: list[int] | None = None
) -> Scene:
    tree = TreeModel(model_nodes(plan, classes))
    return Scene(
        name=plan.model_source,
        layout_name="train",
        plan=plan,
        tree=tree,
        rank=rank,
        findings=plan.findings,
        drift=drift,
        snapshot_note="There is no snapshot yet.",
        location_of=lambda key: (
            Location(file="pyproject.toml", line=8) if key.startswith("lora.target_modules") else None
        ),
        file_lines=lambda _file, first, last: [f"line {number}" for number in range(first, last + 1)],
    )


def row_of(scene: Scene, path: str) -> TreeRow:
    row = scene.tree.reveal(scene.tree.nodes.index[path])
    assert row is not None
    return row


PLACES = {
    "fc1-partly": ("typo", "decoder.layers.0.mlp.linear_fc1", None),
    "fc1-up-on-rank-5": ("typo", "decoder.layers.16.mlp.linear_fc1[up]", 5),
    "fc1-gate-missed": ("typo", "decoder.layers.0.mlp.linear_fc1[gate]", None),
    "qkv": ("typo", "decoder.layers.0.self_attention.linear_qkv", None),
    "layer": ("typo", "decoder.layers.0", None),
    "output-layer": ("typo", "output_layer", None),
    "norm": ("typo", "decoder.final_layernorm", None),
    "experts": ("mixtral", "decoder.layers.0.mlp.experts.linear_fc1", None),
    "router": ("mixtral", "decoder.layers.0.mlp.router", None),
    "row-parallel": ("deepseek", "decoder.layers.3.mlp.experts.linear_fc2", None),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_said_of_a_module(plans: dict[str, JobPlan], name: str) -> None:
    plan, path, rank = PLACES[name]
    scene = scene_of(plans[plan], rank)
    row = row_of(scene, path)
    sections = [maker(scene, row, 84) for maker in (placement_lines, graph_lines, source_lines)]
    assert_golden(f"panes/{name}.txt", "\n\n".join(f"{'─' * 84}\n{plain(lines)}" for lines in sections) + "\n")


@pytest.mark.parametrize("name", ["typo", "mixtral", "deepseek"])
def test_what_is_said_of_the_model_and_its_ranks(plans: dict[str, JobPlan], name: str) -> None:
    scene = scene_of(plans[name], rank=plans[name].layout.world - 3)
    sections = [placement_lines(scene, None, 84), ranks_lines(scene, 84), source_lines(scene, None, 84)]
    assert_golden(f"panes/model-{name}.txt", "\n\n".join(plain(lines) for lines in sections) + "\n")


@pytest.mark.parametrize("name", ["typo", "mixtral", "deepseek", "experts"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_its_pane_and_no_pane_is_empty(plans: dict[str, JobPlan], name: str, width: int) -> None:
    scene = scene_of(plans[name], rank=1)
    rows: list[TreeRow | None] = [None, *scene.tree.rows()]
    for row in rows:
        for maker in (placement_lines, graph_lines, source_lines, snapshot_lines):
            lines = maker(scene, row, width)
            assert plain(lines).strip(), (maker.__name__, row)
            if width >= 76:
                widest = max(lines, key=width_of)
                assert width_of(widest) <= width, (maker.__name__, row, plain([widest]))
        if row is not None:
            assert width_of(row_line(scene, row, width)) <= max(width, 2 * row.depth + 6)
    assert width_of(root_line(scene, width)) <= width
    for each in (*ranks_lines(scene, width), *finding_lines(scene.findings, 0, width)):
        assert width_of(each) <= max(width, 76), plain([each])


def test_links_lead_somewhere(plans: dict[str, JobPlan]) -> None:
    for plan in plans.values():
        scene = scene_of(plan, rank=0)
        for row in [None, *scene.tree.rows()]:
            for each in [*placement_lines(scene, row, 90), *graph_lines(scene, row, 90), *ranks_lines(scene, 90)]:
                for span in each:
                    if span.link is not None and span.link.target is Target.NODE:
                        assert _exists(scene, span.link.value), span.link
                    if span.link is not None and span.link.target is Target.RANK:
                        assert 0 <= int(span.link.value) < plan.layout.world


def _exists(scene: Scene, place: str) -> bool:
    from clora_inspect.tui.tree.rows import nodes_at

    return any(row.path == place for row in scene.tree.rows()) or bool(nodes_at(scene.tree.nodes, place))


BRANCH = Branch(a="4 × 4096", b="3584 × 16", scale="2", part="up")
GATE = Branch(a="4 × 4096", b="12 × 16", scale="2", part="gate")


@pytest.mark.parametrize(
    ("branches", "width", "expected"),
    [
        pytest.param(
            [Branch(a="16 × 1024", b="1024 × 16", scale="0.5", part=None)],
            80,
            [
                "x ─┬─▶ base (frozen) ────────────────────────▶ + ─▶ y",
                "   └─▶ A 16 × 1024 ─▶ B 1024 × 16 ─▶ × 0.5 ────┘",
            ],
            id="one adapter",
        ),
        pytest.param(
            [GATE, BRANCH],
            80,
            [
                "x ─┬─▶ base (frozen) ─────────────────────────────▶ + ─▶ y",
                "   ├─▶ A 4 × 4096 ─▶ B   12 × 16 ─▶ × 2 ─▶ gate ────┤",
                "   └─▶ A 4 × 4096 ─▶ B 3584 × 16 ─▶ × 2 ─▶ up   ────┘",
            ],
            id="two parts, aligned",
        ),
        pytest.param(
            [BRANCH],
            40,
            ["x ─┬─▶ base (frozen) ─▶ + ─▶ y", "   └─▶ A 4 × 4096", "    ─▶ B 3584 × 16 ─▶ × 2 ─▶ up ─▶ +"],
            id="narrow",
        ),
        pytest.param([], 40, ["x ──▶ base (frozen) ──▶ y"], id="none"),
    ],
)
def test_drawing(branches: list[Branch], width: int, expected: list[str]) -> None:
    assert plain(drawing("base", branches, width)).splitlines() == expected


def test_a_heat_map_of_any_cluster_fits_and_has_every_stage(plans: dict[str, JobPlan]) -> None:
    from msgspec.structs import replace

    plan = plans["deepseek"]
    wide = replace(
        plan,
        layout=replace(plan.layout, world_size=16_384),
        rank_classes=tuple(
            replace(each, members=((number * 1024, number * 1024 + 1023),), count=1024)
            for number, each in enumerate(plan.rank_classes)
        ),
    )
    for each, width in ((plan, 76), (plan, 40), (wide, 76), (wide, 60)):
        lines = ranks_lines(scene_of(each, rank=each.layout.world - 1), width)
        text = plain(lines)
        assert all(f"pp{number} " in text for number in range(16))
        assert "◆" in text
        assert max(width_of(one) for one in lines if plain([one]).startswith("pp")) <= width


def test_a_stage_that_trains_nothing_is_told_in_words(plans: dict[str, JobPlan]) -> None:
    from msgspec.structs import replace

    plan = plans["typo"]
    second = replace(plan.rank_classes[1], placements=(), trainable_params=0)
    text = plain(ranks_lines(scene_of(replace(plan, rank_classes=(plan.rank_classes[0], second))), 84))
    assert "no trainable parameters: these ranks train nothing" in text


def test_snapshot_and_diff_say_what_changed(plans: dict[str, JobPlan]) -> None:
    from inspected_plans import JOBS

    plan = plans["typo"]
    before = take(plan, "llama3-8b")
    fewer = _without(plan, "linear_fc2")
    drift = compare(before, take(fewer, "llama3-8b"))
    scene = scene_of(fewer, drift=drift)
    gone = row_of(scene, "decoder.layers.0.mlp")
    kept = row_of(scene, "decoder.layers.0.self_attention.linear_proj")
    parts = [snapshot_lines(scene, gone, 84), snapshot_lines(scene, kept, 84), diff_lines(scene, 84)]
    assert_golden("panes/drift.txt", "\n\n".join(plain(lines) for lines in parts) + "\n")
    clean = scene_of(plan, drift=compare(before, before))
    assert "Clean" in plain(snapshot_lines(clean, None, 84))
    assert JOBS["typo"].model == plan.model_source


def _without(plan: JobPlan, last_name: str) -> JobPlan:
    from msgspec.structs import replace

    classes = []
    for each in plan.rank_classes:
        left = tuple(placement for placement in each.placements if not placement.module.endswith(last_name))
        classes.append(replace(each, placements=left))
    count = sum(len(each.placements) for each in classes)
    return replace(plan, rank_classes=tuple(classes), totals=replace(plan.totals, placements=count))


def test_diff_of_two_plans(plans: dict[str, JobPlan]) -> None:
    before, after = plans["typo"], _without(plans["typo"], "linear_fc2")
    lines = plan_diff_lines(before, after, diff_plans(before, after), plans["typo"].findings, 84)
    assert_golden("panes/plan-diff.txt", plain(lines) + "\n")
    same = plan_diff_lines(before, before, diff_plans(before, before), (), 84)
    assert "Nothing changes." in plain(same)


def test_a_finding_says_everything_and_its_place_keeps_its_end() -> None:
    finding = Finding(
        code="CL101",
        name="unmatched-target",
        severity=Severity.ERROR,
        message='"linear_fc1_gat" matches no module',
        help="did you mean: linear_fc1_gate (32)",
        details=("one", "two"),
        where="decoder.layers.{0..31}.mlp.linear_fc1",
        location=Location(file="a/very/long/path/to/pyproject.toml", line=8),
    )
    one = plain(finding_lines((finding,), None, 120))
    assert "CL101" in one
    assert one.endswith("pyproject.toml:8")
    detail = plain(finding_detail(finding, 60))
    for said in ("did you mean", "one", "two", "linear_fc1", "pyproject.toml:8"):
        assert said in detail
    assert "nothing found" in plain(finding_lines((), None, 80))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("linear_fc1_gat", "decoder.layers.0.mlp.linear_fc1"),
        ("q_proj", "decoder.layers.0.self_attention.linear_qkv"),
        ("zzzz", None),
    ],
)
def test_an_unmatched_target_leads_to_what_was_meant(
    plans: dict[str, JobPlan], target: str, expected: str | None
) -> None:
    nodes = model_nodes(plans["typo"])
    finding = Finding(code="CL101", name="unmatched-target", severity=Severity.ERROR, message="", target=target)
    node = node_of(nodes, finding)
    assert (None if node is None else nodes.paths[node]) == expected


def test_control_characters_cannot_drive_the_terminal() -> None:
    evil = line("a\x1b[31mb\nc\u202ed")
    assert plain([evil]) == "a␛[31mb␊c\ufffdd"


@pytest.mark.parametrize(
    ("text", "width", "start", "end"),
    [
        ("abcdef", 6, "abcdef", "abcdef"),
        ("abcdef", 4, "abc…", "…def"),
        ("abcdef", 1, "…", "…"),
        ("abcdef", 0, "", ""),
        ("日本語", 4, "日…", "…語"),
    ],
)
def test_cutting(text: str, width: int, start: str, end: str) -> None:
    assert keep_start(text, width) == start
    assert keep_end(text, width) == end


def test_wrapping_breaks_between_words_and_cuts_what_has_none() -> None:
    rows: list[Line] = wrapped("one two " + "x" * 30, 12, Tone.PLAIN, lead="- ")
    assert plain(rows).splitlines() == ["- one two", "  xxxxxxxxxx", "  xxxxxxxxxx", "  xxxxxxxxxx"]
