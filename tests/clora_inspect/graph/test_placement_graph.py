"""The placement graph: every module, part and adapter once, with its status, in a tree under its
rank class.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import networkx as nx
import pytest

from clora import CanonicalLoRA
from clora_inspect.graph.errors import GraphError
from clora_inspect.graph.formats import FORMATS, renderer
from clora_inspect.graph.labels import last_name
from clora_inspect.graph.placement_graph import PlacementGraph
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan

LORAS = {
    "q and v": CanonicalLoRA(target_modules=["linear_q", "linear_v"]),
    "all but k and fc2": CanonicalLoRA(target_modules=[], exclude_modules=["linear_k", "linear_fc2"]),
    "all but the whole linear_qkv": CanonicalLoRA(
        target_modules=[], exclude_modules=["linear_q", "linear_k", "linear_v"]
    ),
    "per expert": CanonicalLoRA(share_expert_adapters=False),
}


@cache
def plan_of(lora: str) -> JobPlan:
    layout = Layout(pp=2, vpp=2, ep=2)
    fields = {"num_layers": 4, "num_moe_experts": 8}
    return plan_job(Job(model="qwen3-30b-a3b", layout=layout, lora=LORAS[lora], model_overrides=fields))


@pytest.mark.parametrize("lora", LORAS)
def test_everything_of_the_plan_is_a_node(lora: str) -> None:
    plan = plan_of(lora)
    graph = PlacementGraph.from_job_plan(plan)
    placements = [p for c in plan.rank_classes for p in c.placements]
    skips = [s for c in plan.rank_classes for s in c.skipped]
    modules = {(c.pp, r.chunk, r.module) for c in plan.rank_classes for r in (*c.placements, *c.skipped)}
    assert len(graph.nodes("rank_class")) == 2
    assert len(graph.nodes("module")) == len(modules)
    assert len(graph.nodes("adapter")) == len(placements)
    assert len(graph.nodes("part")) == sum(r.part is not None for r in (*placements, *skips))
    assert len(graph.nodes("part", "wrapped")) == sum(p.part is not None for p in placements)
    # A fused linear whose parts are all skipped has no skip of its own.
    wholes = {
        (c.pp, s.chunk, s.module): str(s.reason)
        for c in plan.rank_classes
        for s in c.skipped
        if (s.chunk, s.module) not in {(p.chunk, p.module) for p in c.placements}
    }
    by_reason = Counter(wholes.values())
    assert len(graph.nodes("module", "excluded")) == by_reason["excluded"]
    assert len(graph.nodes("module", "unmatched")) == by_reason["not targeted"]
    assert len(graph.nodes("module", "not adaptable")) == by_reason["not adaptable"] + by_reason["no parameters"]


@pytest.mark.parametrize("lora", LORAS)
def test_edges_make_a_tree_with_adapters_beside_what_they_adapt(lora: str) -> None:
    graph = PlacementGraph.from_job_plan(plan_of(lora)).to_networkx()
    kinds = dict(graph.nodes(data="kind"))
    ends = {
        "contains": ({"rank_class", "module"}, {"module"}),
        "holds": ({"module"}, {"part"}),
        "adapts": ({"adapter"}, {"module", "part"}),
    }
    for source, target, kind in graph.edges(data="kind"):
        assert kinds[source] in ends[kind][0]
        assert kinds[target] in ends[kind][1]
    tree = nx.DiGraph([(a, b) for a, b, kind in graph.edges(data="kind") if kind != "adapts"])
    assert nx.is_branching(tree)
    assert {node for node, degree in tree.in_degree() if degree == 0} == {"pp0", "pp1"}
    assert set(graph) == set(tree) | {node for node, kind in kinds.items() if kind == "adapter"}


def test_nodes_carry_what_the_plan_says() -> None:
    graph = PlacementGraph.from_job_plan(plan_of("per expert")).to_networkx()
    base = "pp1#1/decoder.layers.0.mlp.experts.linear_fc1"
    assert graph.nodes[base]["global_layer"] == 3
    assert graph.nodes[base]["wrapper"] == "LoRALinear"
    adapter = graph.nodes[f"{base}:adapter"]
    assert (adapter["a_shape"], adapter["a_axes"], adapter["num_local_experts"], adapter["per_expert"]) == (
        "4x32x2048",
        "ep,etp,-",
        4,
        True,
    )
    part = "pp0/decoder.layers.0.self_attention.linear_qkv[q]"
    assert list(graph.successors(f"{part}:adapter")) == [part]
    excluded = PlacementGraph.from_job_plan(plan_of("all but k and fc2")).to_networkx()
    assert excluded.nodes["pp0/decoder.layers.0.self_attention.linear_qkv[k]"]["status"] == "excluded"
    assert excluded.nodes["pp0/decoder.layers.0.mlp.experts.linear_fc2"]["by"] == "linear_fc2"


def test_the_node_link_form_is_json_and_comes_back() -> None:
    graph = PlacementGraph.from_job_plan(plan_of("q and v"))
    data: dict[str, Any] = json.loads(json.dumps(graph.to_node_link()))
    back = nx.node_link_graph(data, edges="edges")
    assert nx.utils.graphs_equal(back, graph.graph)


def test_the_graph_given_out_is_a_copy() -> None:
    graph = PlacementGraph.from_job_plan(plan_of("q and v"))
    graph.to_networkx().clear()
    assert len(graph.graph) > 100


def test_a_graph_that_nobody_could_look_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("q and v")
    graph = PlacementGraph.from_job_plan(plan)
    monkeypatch.setattr("clora_inspect.graph.formats.LARGEST_GRAPH", 10)
    for name in FORMATS:
        with pytest.raises(GraphError, match=r"nodes, and 10 is the most\. Leave out --expand"):
            renderer(name)(graph)
    monkeypatch.setattr("clora_inspect.graph.placement_graph.LARGEST_GRAPH_MODULES", 10)
    with pytest.raises(GraphError, match="modules and parts, and 10 is the most"):
        PlacementGraph.from_job_plan(plan)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("pp0/decoder.layers.3.mlp.linear_fc1", "linear_fc1"),
        ("decoder.layers.{0..31}", "layers.{0..31}"),
        ("decoder.layers.{0..2,58..60}", "layers.{0..2,58..60}"),
        ("pp0/decoder.layers.{24 of 0..50}", "layers.{24 of 0..50}"),
        ("decoder.layers.{24 of 0..50}.mlp", "mlp"),
        ("decoder", "decoder"),
        ("{0..3}", "{0..3}"),
    ],
)
def test_layers_are_called_by_their_list_and_numbers(path: str, name: str) -> None:
    assert last_name(path) == name
