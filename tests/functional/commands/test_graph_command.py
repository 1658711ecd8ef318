"""`clora-inspect graph`: all formats, folded or whole."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import networkx as nx
import pytest

from clora_inspect.graph.formats import FORMATS

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine


def test_json_is_a_networkx_graph(clora_inspect: CommandLine, saved_plan: Path) -> None:
    ran = clora_inspect("graph", str(saved_plan), "-f", "json", "--expand")
    graph = nx.node_link_graph(json.loads(ran.out), edges="edges")
    assert (ran.status, ran.err) == (0, "")
    assert sum(data["kind"] == "adapter" for _, data in graph.nodes(data=True)) == 4 * 7
    assert "pp1/decoder.layers.0.mlp.linear_fc1[up]:adapter" in graph


def test_folding_keeps_the_counts_and_merges_equal_layers(clora_inspect: CommandLine, saved_plan: Path) -> None:
    graph = nx.node_link_graph(json.loads(clora_inspect("graph", str(saved_plan), "-f", "json").out), edges="edges")
    adapters = {name: data["count"] for name, data in graph.nodes(data=True) if data["kind"] == "adapter"}
    assert len(adapters) == 7
    assert set(adapters.values()) == {4}
    assert "decoder.layers.{0..3}.mlp.linear_fc1[up]:adapter" in adapters
    held = {stage: graph.edges[stage, "decoder.layers.{0..3}"]["layers"] for stage in ("pp0", "pp1")}
    assert held == {"pp0": "{0..1}", "pp1": "{2..3}"}
    assert nx.is_directed_acyclic_graph(graph)
    assert nx.is_weakly_connected(graph)


def test_folding_keeps_different_layers_apart(clora_inspect: CommandLine) -> None:
    words = ("qwen2.5-0.5b", "--set", "model.num_layers=4", "--target-modules", "*.layers.{1..2}.*.linear_q")
    nodes = json.loads(clora_inspect("graph", *words, "-f", "json").out)["nodes"]
    layers = [node["id"] for node in nodes if re.fullmatch(r"decoder\.layers\.[^a-z]+", node["id"])]
    assert layers == ["decoder.layers.{0,3}", "decoder.layers.{1..2}"]


def test_graphml_can_be_read_back(clora_inspect: CommandLine, saved_plan: Path) -> None:
    out = clora_inspect("graph", str(saved_plan), "-f", "graphml").out
    ET.fromstring(out)
    graph = nx.parse_graphml(out)
    assert graph.nodes["decoder.layers.{0..3}.mlp.linear_fc2:adapter"]["dim"] == 16


def test_dot_names_every_node_and_edge(clora_inspect: CommandLine, saved_plan: Path) -> None:
    out = clora_inspect("graph", str(saved_plan)).out
    assert out.startswith("digraph placements {")
    assert out.endswith("}\n")
    assert '"decoder.layers.{0..3}.mlp" -> "decoder.layers.{0..3}.mlp.linear_fc2"' in out
    document = json.loads(clora_inspect("graph", str(saved_plan), "-f", "json").out)
    assert out.count(" -> ") == len(document["edges"])


@pytest.mark.parametrize("words", [(), ("--expand",)])
def test_mermaid_fits_its_limits_and_says_what_it_left_out(clora_inspect: CommandLine, words: tuple[str, ...]) -> None:
    job = ("deepseek-v2-lite", "--pp", "3", "--ep", "4", "--exclude-modules", "linear_proj")
    out = clora_inspect("graph", *job, "-f", "mermaid", *words).out
    assert out.startswith("flowchart LR\n")
    assert len(out) <= 50_000
    assert len(re.findall(r"-->|-\.->", out)) <= 500
    assert ("left out" in out) is bool(words)


def test_depth_cuts_the_tree(clora_inspect: CommandLine, saved_plan: Path) -> None:
    nodes = json.loads(clora_inspect("graph", str(saved_plan), "-f", "json", "--depth", "3").out)["nodes"]
    names = {node["id"] for node in nodes}
    assert "decoder.layers.{0..3}" in names
    assert "decoder.layers.{0..3}.mlp" not in names


def test_names_cannot_break_out_of_a_format(clora_inspect: CommandLine, saved_plan: Path, tmp_path: Path) -> None:
    evil = 'fc"];\n<script>\x1b[31m&'
    text = saved_plan.read_text().replace('"decoder.final_layernorm"', json.dumps(f"decoder.{evil}"))
    path = tmp_path / "evil.json"
    path.write_text(text)
    for form in FORMATS:
        out = clora_inspect("graph", str(path), "-f", form).out
        assert "\x1b" not in out, form
        if form in ("mermaid", "graphml", "svg"):
            assert "<script>" not in out, form
    assert "\x1b" not in clora_inspect("plan", str(path), "--only", "missed").out
    ET.fromstring(clora_inspect("graph", str(path), "-f", "graphml").out)
    json.loads(clora_inspect("graph", str(path), "-f", "json").out)


@pytest.mark.parametrize(
    ("suffix", "start"), [("mmd", "flowchart"), ("dot", "digraph"), ("json", "{"), ("graphml", "<"), ("svg", "<svg")]
)
def test_the_suffix_chooses_the_format(
    clora_inspect: CommandLine, saved_plan: Path, tmp_path: Path, suffix: str, start: str
) -> None:
    path = tmp_path / f"graph.{suffix}"
    assert clora_inspect("graph", str(saved_plan), "-o", str(path)).status == 0
    assert path.read_text().startswith(start)
