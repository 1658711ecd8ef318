"""The tree without a terminal: folding, filters, marks, going to a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from clora.errors import TargetError
from clora.plan import Fate
from clora_inspect.tui.tree import build as builder
from clora_inspect.tui.tree.build import model_nodes
from clora_inspect.tui.tree.nodes import ModelNodes
from clora_inspect.tui.tree.rows import DRIFTED, FOUND, WRONG, TreeFilter, TreeModel, nodes_at

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan


def tree_of(plan: JobPlan, classes: list[int] | None = None) -> TreeModel:
    return TreeModel(model_nodes(plan, classes))


def paths(tree: TreeModel) -> list[str]:
    return [row.path for row in tree.rows()]


def outline(tree: TreeModel) -> list[str]:
    return ["  " * row.depth + row.label for row in tree.rows()]


def test_every_module_of_the_plan_is_a_node_once(plans: dict[str, JobPlan]) -> None:
    for plan in plans.values():
        nodes = model_nodes(plan)
        assert len(set(nodes.paths)) == len(nodes)
        assert nodes.adapters[0] == plan.totals.placements or plan is plans["experts"]
        for node in range(1, len(nodes)):
            parent = nodes.parents[node]
            assert parent < node < nodes.ends[node] <= nodes.ends[parent]
            assert nodes.paths[node].startswith(nodes.paths[parent])


@pytest.mark.parametrize("name", ["typo", "mixtral", "deepseek", "experts"])
def test_layers_written_down_by_their_kind_are_those_worked_out_one_by_one(
    plans: dict[str, JobPlan], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans[name]
    for classes in (None, [0], [len(plan.rank_classes) - 1]):
        by_kind = model_nodes(plan, classes)
        with monkeypatch.context() as patched:
            patched.setattr(builder, "_head_of", lambda _: None)
            one_by_one = model_nodes(plan, classes)
        for array in ("paths", "names", "parents", "ends", "entries", "classes", "fates", "shown", "index"):
            assert getattr(by_kind, array) == getattr(one_by_one, array), array
        assert (by_kind.adapters, by_kind.params, by_kind.unadapted) == (
            one_by_one.adapters,
            one_by_one.params,
            one_by_one.unadapted,
        )
        # The numbers of kinds mean nothing. The test compares which nodes have equal numbers.
        pairs = set(zip(by_kind.kinds, one_by_one.kinds, strict=True))
        assert len(pairs) == len(set(by_kind.kinds)) == len(set(one_by_one.kinds))


def test_a_layer_that_came_in_two_ways_is_one_layer(plans: dict[str, JobPlan]) -> None:
    """The planner writes no such plan, but a file may hold one."""
    plan = plans["typo"]
    first = plan.rank_classes[0]
    mixed = tuple(
        replace(skip, global_layer=3) if skip.module == "embedding.word_embeddings" else skip for skip in first.skipped
    )
    odd = tuple(
        replace(each, global_layer=None) if number == 5 else each for number, each in enumerate(first.placements)
    )
    nodes = model_nodes(
        replace(plan, rank_classes=(replace(first, skipped=mixed, placements=odd), plan.rank_classes[1]))
    )
    assert len(set(nodes.paths)) == len(nodes)
    assert nodes.adapters[0] == plan.totals.placements
    assert nodes.index["embedding.word_embeddings"]


def test_sums_are_those_of_the_plan(plans: dict[str, JobPlan]) -> None:
    for name in ("typo", "mixtral", "deepseek"):
        nodes = model_nodes(plans[name])
        assert nodes.adapters[0] == plans[name].totals.placements
        assert nodes.params[0] == plans[name].totals.trainable_params
        decoder = nodes.index["decoder"]
        assert nodes.unadapted[decoder] == plans[name].totals.linears - plans[name].totals.adapted_linears


def test_layers_that_are_alike_are_one_row_and_those_that_differ_stand_apart(plans: dict[str, JobPlan]) -> None:
    assert [label.strip() for label in outline(tree_of(plans["typo"])) if "layers" in label] == ["layers {0..31}"]
    layers = [label.strip() for label in outline(tree_of(plans["mixtral"])) if "layers {" in label]
    assert len(layers) == 2
    assert layers[0].startswith("layers {0..7")
    deepseek = [label.strip() for label in outline(tree_of(plans["deepseek"])) if "layers {" in label]
    assert deepseek == ["layers {0..2}", "layers {3..60}"]


def test_numbers_are_those_of_the_whole_model_on_every_stage(plans: dict[str, JobPlan]) -> None:
    second = tree_of(plans["typo"], [1])
    assert "decoder.layers.{16..31}.mlp.linear_fc1" in paths(second)
    assert "embedding" not in paths(second)
    assert "output_layer" in paths(second)


def test_experts_are_folded_inside_folded_layers_and_count_all_they_stand_for(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["experts"])
    row = next(row for row in tree.rows() if "local_experts" in row.label)
    assert row.label == "local_experts {0..7}"
    assert not row.is_open
    assert row.times == 8 * len([p for p in tree.nodes.paths if p.endswith("mlp.experts")]) // 2


def test_unfolding_gives_every_layer_a_row_and_folding_takes_them_back(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["typo"])
    folded = paths(tree)
    row = next(row for row in tree.rows() if row.label.startswith("layers"))
    assert tree.unfold(row)
    assert sum(row.label.startswith("layers ") for row in tree.rows()) == 32
    assert tree.unfold(next(row for row in tree.rows() if row.label == "layers 5"))
    assert paths(tree) == folded
    assert not tree.unfold(next(row for row in tree.rows() if row.label == "mlp"))


def test_opening_and_closing(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["typo"])
    before = paths(tree)
    fused = next(row for row in tree.rows() if row.label == "linear_qkv")
    assert fused.has_children
    assert not fused.is_open
    tree.toggle(fused)
    assert [row.label for row in tree.rows() if row.label.startswith("[")] == ["[q]", "[k]", "[v]"]
    tree.toggle(fused._replace(is_open=True), to=False)
    assert paths(tree) == before
    tree.toggle(tree.rows()[1], to=True)
    assert paths(tree) == before


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        pytest.param("linear_fc1", {"decoder.layers.{0..31}.mlp.linear_fc1"}, id="a part of a name"),
        pytest.param("LINEAR_FC1", {"decoder.layers.{0..31}.mlp.linear_fc1"}, id="in any case"),
        pytest.param(
            "linear_fc1_gate", {"decoder.layers.{0..31}.mlp.linear_fc1[gate]"}, id="a canonical part by its target"
        ),
        pytest.param(
            "TERowParallelLinear",
            {"decoder.layers.{0..31}.mlp.linear_fc2", "decoder.layers.{0..31}.self_attention.linear_proj"},
            id="a class",
        ),
        pytest.param(
            "*.layers.{3..5}.*.linear_fc2", {"decoder.layers.{3..5}.mlp.linear_fc2"}, id="a pattern with a range"
        ),
        pytest.param("*.layers.1.*.linear_fc2", {"decoder.layers.1.mlp.linear_fc2"}, id="layer 1 and not 10 to 19"),
        pytest.param(
            "*.linear_q", {"decoder.layers.{0..31}.self_attention.linear_qkv[q]"}, id="a pattern for a canonical part"
        ),
        pytest.param("nothing of that name", set(), id="nothing"),
    ],
)
def test_a_filter_keeps_what_it_hits_and_what_that_stands_in(
    plans: dict[str, JobPlan], text: str, hit: set[str]
) -> None:
    tree = tree_of(plans["typo"])
    tree.filter(text)
    shown = tree.rows()
    assert hit <= {row.path for row in shown}
    leaves = {row.path for row in shown if not row.has_children or not row.is_open}
    assert all(any(leaf.startswith(path) or path.startswith(leaf) for path in hit) for leaf in leaves)
    tree.filter("")
    assert paths(tree) == paths(tree_of(plans["typo"]))


def test_a_pattern_that_hits_a_container_shows_what_is_in_it(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["typo"])
    tree.filter("*.layers.7.mlp")
    assert "decoder.layers.7.mlp.linear_fc2" in paths(tree)
    assert not any("self_attention" in path for path in paths(tree))


def test_a_broken_pattern_is_an_error_and_leaves_the_tree_as_it_is(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["typo"])
    tree.filter("fc1")
    before = paths(tree)
    with pytest.raises(TargetError):
        tree.filter("*.layers.{3..*")
    assert (tree.text, paths(tree)) == ("fc1", before)


def test_only_narrows_to_what_became_of_modules(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["typo"])
    nodes = tree.nodes
    tree.filter("", TreeFilter.MISSED)
    shown = {row.path: row.node for row in tree.rows() if nodes.fates[row.node] is not Fate.NO_PARAMETERS}
    assert {nodes.fates[node] for node in shown.values()} == {Fate.WRAPPED, Fate.UNMATCHED}
    assert all(nodes.is_partly_wrapped(node) for node in shown.values() if nodes.fates[node] is Fate.WRAPPED)
    assert "output_layer" in shown
    tree.filter("", TreeFilter.ADAPTED)
    assert {nodes.fates[row.node] for row in tree.rows()} == {Fate.WRAPPED, Fate.NO_PARAMETERS}
    assert {nodes.is_partly_wrapped(row.node) for row in tree.rows()} == {True, False}
    tree.filter("linear_q", TreeFilter.ADAPTED)
    assert {row.label for row in tree.rows() if nodes.fates[row.node] is Fate.WRAPPED} == {
        "linear_qkv",
        "[q]",
        "[k]",
        "[v]",
    }


def test_marks_split_a_fold_and_can_be_filtered(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["typo"])
    tree.mark(
        found=["decoder.layers.{4..6}.mlp.linear_fc2"],
        drifted=["decoder.layers.9.mlp.linear_fc1[gate]"],
        wrong=["output_layer"],
    )
    labels = [row.label for row in tree.rows() if row.label.startswith("layers")]
    assert labels == ["layers {0..3,7..8,10..31}", "layers {4..6}", "layers 9"]
    assert tree.own_marks(tree.nodes.index["decoder.layers.5.mlp.linear_fc2"]) == FOUND
    assert tree.marks_of(tree.nodes.index["decoder.layers.9"]) == DRIFTED
    assert tree.marks_of(0) == FOUND | DRIFTED | WRONG
    tree.filter("", TreeFilter.DRIFTED)
    assert [row.path for row in tree.rows()][-1] == "decoder.layers.9.mlp.linear_fc1[gate]"
    tree.filter("", TreeFilter.FINDINGS)
    assert {"decoder.layers.{4..6}.mlp.linear_fc2", "output_layer"} <= set(paths(tree))


@pytest.mark.parametrize("name", ["typo", "mixtral", "deepseek", "experts"])
def test_every_node_that_is_shown_can_be_gone_to(plans: dict[str, JobPlan], name: str) -> None:
    tree = tree_of(plans[name])
    nodes = tree.nodes
    step = max(1, len(nodes) // 300)
    for node in range(1, len(nodes), step):
        if not nodes.shown[node] or (nodes.names[node + 1 : node + 2] and nodes.names[node + 1].isdigit()):
            continue
        row = tree.reveal(node)
        assert row is not None, nodes.paths[node]
        assert nodes.names[row.node] == nodes.names[node] or row.members
        assert row.node in [each.node for each in tree.rows()]
        # The row stands for the node: their paths differ only in the numbers that are folded.
        assert [piece for piece in nodes.paths[row.node].split(".") if not piece.isdigit()] == [
            piece for piece in nodes.paths[node].split(".") if not piece.isdigit()
        ]


def test_a_node_that_a_filter_hides_cannot_be_gone_to(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["typo"])
    tree.filter("linear_fc1")
    assert tree.reveal(tree.nodes.index["decoder.layers.3.mlp.linear_fc2"]) is None


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("decoder.layers.3.mlp", ["decoder.layers.3.mlp"]),
        ("decoder.layers.{0..2}.mlp", [f"decoder.layers.{n}.mlp" for n in range(3)]),
        ("decoder.layers.{3..27..12}.mlp", [f"decoder.layers.{n}.mlp" for n in (3, 15, 27)]),
        ("decoder.layers.{0..1,30..31}.mlp", [f"decoder.layers.{n}.mlp" for n in (0, 1, 30, 31)]),
        ("decoder.layers.7.self_attention.linear_proj[q]", ["decoder.layers.7.self_attention.linear_proj"]),
        ("*.final_layernorm", ["decoder.final_layernorm"]),
        ("decoder.layers.99.mlp", []),
        ("", [""]),
    ],
)
def test_places_name_nodes(plans: dict[str, JobPlan], place: str, expected: list[str]) -> None:
    nodes = model_nodes(plans["typo"])
    assert [nodes.paths[node] for node in nodes_at(nodes, place)] == expected


def test_a_place_of_many_runs_is_where_its_first_and_last_layer_are(plans: dict[str, JobPlan]) -> None:
    nodes = model_nodes(plans["typo"])
    assert len(nodes_at(nodes, "decoder.layers.{18 of 0..31}.mlp")) == 32


@pytest.mark.parametrize("name", ["typo", "mixtral", "deepseek", "experts"])
def test_a_row_stands_for_as_many_nodes_as_it_says_and_they_are_alike(plans: dict[str, JobPlan], name: str) -> None:
    tree = tree_of(plans[name])
    for text in ("", "linear_fc2"):
        tree.filter(text)
        for row in tree.rows():
            stands_for = tree.nodes_of(row)
            assert len(set(stands_for)) == row.times
            # Layers that differ only in their position have equal names inside, even where the
            # kinds of the whole trees differ.
            assert {tree.nodes.kinds[node] for node in stands_for} == {tree.nodes.kinds[row.node]}
            named = {
                "".join("#" if c.isdigit() else c for c in tree.nodes.paths[node]).replace("##", "#")
                for node in stands_for
            }
            assert len(named) == 1


def test_modules_without_parameters_are_hidden_until_asked_for(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["typo"])
    assert not any("core_attention" in path for path in paths(tree))
    tree.show_empty(on=True)
    assert any("core_attention" in path for path in paths(tree))
    tree.show_empty(on=False)
    assert not any("core_attention" in path for path in paths(tree))


def test_state_carries_over_to_another_rank(plans: dict[str, JobPlan]) -> None:
    tree = tree_of(plans["typo"])
    tree.filter("fc1", TreeFilter.ADAPTED)
    other = tree_of(plans["typo"], [1])
    other.copy_state(tree)
    assert (other.text, other.only) == ("fc1", TreeFilter.ADAPTED)
    assert "decoder.layers.{16..31}.mlp.linear_fc1" in paths(other)


def test_a_plan_without_any_module_is_an_empty_tree(plans: dict[str, JobPlan]) -> None:
    empty = replace(
        plans["typo"],
        rank_classes=tuple(replace(each, placements=(), skipped=()) for each in plans["typo"].rank_classes),
    )
    tree = tree_of(empty)
    assert tree.rows() == []
    tree.filter("x")
    assert tree.rows() == []


def test_a_plan_of_stripped_containers_still_makes_a_tree(plans: dict[str, JobPlan]) -> None:
    """A snapshot has adapters and no containers, which are built from the paths."""
    plan = plans["mixtral"]
    only_adapters = replace(plan, rank_classes=tuple(replace(each, skipped=()) for each in plan.rank_classes))
    nodes = model_nodes(only_adapters)
    assert isinstance(nodes, ModelNodes)
    assert nodes.adapters[0] == plan.totals.placements
    assert nodes.fates[nodes.index["decoder.layers.0.mlp.experts"]] is Fate.NO_PARAMETERS


def test_the_tree_has_the_fates_of_the_plan(plans: dict[str, JobPlan]) -> None:
    plan = plans["typo"]
    for reason in (Fate.EXCLUDED, Fate.UNMATCHED, Fate.NOT_ADAPTABLE):
        skipped = tuple(
            replace(skip, reason=reason)
            for skip in plan.rank_classes[0].skipped
            if skip.module == "embedding.word_embeddings"
        )
        nodes = model_nodes(replace(plan, rank_classes=(replace(plan.rank_classes[0], skipped=skipped),)))
        assert nodes.fates[nodes.index["embedding.word_embeddings"]] is reason
