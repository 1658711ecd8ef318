"""Every format of the placement graph, read back by a program that it is for: names and edges come
back, also where a name tries to break out.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import networkx as nx
import pytest

from clora_inspect.graph.folding import folded
from clora_inspect.graph.formats import renderer
from clora_inspect.graph.labels import label
from clora_inspect.graph.placement_graph import PlacementGraph
from clora_inspect.graph.printable import printable
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

SVG = "{http://www.w3.org/2000/svg}"

HOSTILE = (
    'fc"];\n evil [label="x',
    "fc\\",
    "fc\\n\\l\\N",
    "<script>alert(1)</script>",
    "</title></text></svg>",
    "]]><!--",
    "&amp;&#60;",
    "#quot;#35;",
    'n0["x"]:::wrapped --> n1',
    "%% comment",
    "`a` {b} |c| (d)",
    "end",
    "digraph",
    "\x00\x1b[31m\x07",
    "\u202egpj.exe",
    "a\ufffe",
    "naïve 模型 🦙",
    "a/b;c",
    "results",
    "__proto__",
    " ",
    "x" * 300,
)

Read = tuple[set[str], set[tuple[str, str]]]
"""The names of the nodes, and the edges."""


def model() -> PlacementGraph:
    fields = {"num_layers": 4, "num_moe_experts": 8}
    plan = plan_job(Job(model="qwen3-30b-a3b", layout=Layout(pp=2, ep=2), model_overrides=fields))
    return folded(PlacementGraph.from_job_plan(plan))


def hostile(names: tuple[str, ...] = HOSTILE) -> PlacementGraph:
    """A module of each name, with a part and an adapter of the same name, in a job of that name."""
    nodes: list[tuple[str, dict[str, Any]]] = [
        ("pp0", {"kind": "rank_class", "members": "0-1", "base_params": 8, "trainable_params": 4, "count": 2})
    ]
    edges: list[tuple[str, str, dict[str, Any]]] = []
    for number, name in enumerate(names):
        base = f"pp0/m{number}{name}"
        adapter = {"a_shape": "4x8", "b_shape": "8x4", "dim": 4, "params": 64, "target": name}
        nodes += [
            (base, {"kind": "module", "status": "wrapped", "base_class": name, "module": f"m{number}{name}"}),
            (f"{base}[{name}]", {"kind": "part", "status": "excluded", "part": name}),
            (f"{base}[{name}]:adapter", {"kind": "adapter", "status": "wrapped", **adapter}),
        ]
        edges += [
            ("pp0", base, {"kind": "contains"}),
            (base, f"{base}[{name}]", {"kind": "holds"}),
            (f"{base}[{name}]:adapter", f"{base}[{name}]", {"kind": "adapts"}),
        ]
    return PlacementGraph.of(nodes, edges, {"job": "".join(names), "total_placements": 1, "total_trainable_params": 1})


@pytest.fixture(scope="module", params=[model, hostile])
def graph(request: pytest.FixtureRequest) -> PlacementGraph:
    return request.param()


def expected(graph: PlacementGraph, shown: Callable[[str], str]) -> Read:
    return {shown(name) for name in graph.graph}, {(shown(a), shown(b)) for a, b in graph.graph.edges}


# pydot calls pyparsing by names of an older release.
@pytest.mark.filterwarnings("ignore:.* deprecated:DeprecationWarning")
def test_dot_is_read_by_pydot(graph: PlacementGraph) -> None:
    pydot = pytest.importorskip("pydot", reason="a dependency of the tests that was added later: pip install pydot")
    (read,) = pydot.graph_from_dot_data(renderer("dot")(graph))

    def plain(quoted: str) -> str:
        assert quoted[0] == quoted[-1] == '"', quoted
        return re.sub(r"\\(.)", r"\1", quoted[1:-1])

    # `node [...]` sets defaults.
    nodes = {plain(node.get_name()) for node in read.get_nodes() if node.get_name() != "node"}
    edges = {(plain(edge.get_source()), plain(edge.get_destination())) for edge in read.get_edges()}
    assert (nodes, edges) == expected(graph, printable)
    shown = {
        tuple(map(plain, map('"{}"'.format, node.get_label()[1:-1].split("\\n")))) for node in read.get_nodes()[1:]
    }
    words = {tuple(map(printable, label(name, data))) for name, data in graph.graph.nodes(data=True)}
    # A label that holds an escaped backslash before an n cannot be split like this.
    assert {each for each in words if "\\" not in "".join(each)} <= shown


def test_graphml_is_read_by_networkx(graph: PlacementGraph) -> None:
    read = nx.parse_graphml(renderer("graphml")(graph))
    assert (set(read), set(read.edges)) == expected(graph, printable)


def test_json_is_read_by_networkx(graph: PlacementGraph) -> None:
    read = nx.node_link_graph(json.loads(renderer("json")(graph)), edges="edges")
    assert nx.utils.graphs_equal(read, graph.graph)


def test_svg_is_read_by_an_xml_parser(graph: PlacementGraph) -> None:
    root = ET.fromstring(renderer("svg")(graph))
    nodes = {each.get("data-name") or "": each for each in root.iter(f"{SVG}g") if each.get("data-name")}
    edges = {(each.get("data-start"), each.get("data-end")) for each in root.iter(f"{SVG}path")}
    assert (set(nodes), edges) == expected(graph, printable)
    # Nothing but drawing: no script, no link, no request.
    assert {each.tag.removeprefix(SVG) for each in root.iter()} == {
        "svg",
        "title",
        "style",
        "rect",
        "text",
        "g",
        "path",
    }
    for name, data in graph.graph.nodes(data=True):
        texts = [text.text or "" for text in nodes[printable(name)].iter(f"{SVG}text")]
        for text, line in zip(texts, label(name, data), strict=False):
            assert text in {printable(line), printable(line)[:59] + "…"}


def test_names_that_no_encoding_has_do_not_break_xml() -> None:
    """The name of a file may have bytes that are no UTF-8: Python keeps them as lone surrogates."""
    graph = hostile(("a\ud800", "a\udcff"))
    for form in ("svg", "graphml"):
        text = renderer(form)(graph)
        assert len(ET.fromstring(text.encode())) > 0
        assert r"a\ud800" in text


def test_boxes_of_the_picture_do_not_overlap(graph: PlacementGraph) -> None:
    root = ET.fromstring(renderer("svg")(graph))
    found = [
        tuple(float(rect.get(name, "")) for name in ("x", "y", "width", "height"))
        for group in root.iter(f"{SVG}g")
        if group.get("data-name")
        for rect in group.iter(f"{SVG}rect")
    ]
    width, height = (float(root.get(name, "")) for name in ("width", "height"))
    by_column: dict[float, list[tuple[float, ...]]] = {}
    for box in found:
        assert box[0] + box[2] <= width
        assert box[1] + box[3] <= height
        by_column.setdefault(box[0], []).append(box)
    rights = sorted((x, max(box[2] for box in boxes)) for x, boxes in by_column.items())
    assert all(x + widest < following for (x, widest), (following, _) in pairwise(rights))
    for boxes in by_column.values():
        boxes.sort(key=lambda box: box[1])
        assert all(a[1] + a[3] < b[1] for a, b in pairwise(boxes))


def test_mermaid_has_one_node_and_one_arrow_a_line(graph: PlacementGraph) -> None:
    """The grammar of what we write. mermaid itself needs a browser."""
    entities = {"#35;": "#", "#quot;": '"', "#lt;": "<", "#gt;": ">", "#amp;": "&", "#96;": "`"}
    first, *lines = renderer("mermaid")(graph).splitlines()
    assert first == "flowchart LR"
    texts, arrows = [], 0
    for line in lines:
        if line.startswith(("  %%", "  classDef ")):
            continue
        if re.fullmatch(r'  n\d+ (-->|-\.->)(\|"[^"]*"\|)? n\d+', line):
            arrows += 1
            continue
        found = re.fullmatch(r'  n\d+(\[/|\[|\(\[|\{\{)"([^"]*)"(/\]|\]|\]\)|\}\})(:::[a-z]+)?', line)
        assert found, line
        text = found[2].replace("<br/>", "\n")
        assert not re.search("[<>&`]", text), line
        texts.append(re.sub("#[a-z0-9]+;", lambda entity: entities[entity[0]], text))
    everything = ["\n".join(map(printable, label(name, data))) for name, data in graph.graph.nodes(data=True)]
    if len(texts) == len(graph.graph):
        assert texts == everything
        assert arrows == graph.graph.number_of_edges()
    assert set(texts) <= set(everything)


@pytest.fixture(scope="session")
def model_explorer(wheel_of: Callable[[str], Path]) -> Callable[[str], ModuleType]:
    """Return a function that imports one module of Model Explorer: all of it wants a web server."""
    folder = wheel_of("ai-edge-model-explorer==0.1.34") / "model_explorer"

    def module(name: str) -> ModuleType:
        package = "model_explorer_alone"
        if package not in sys.modules:
            spec = importlib.util.spec_from_loader(package, loader=None, is_package=True)
            assert spec
            sys.modules[package] = importlib.util.module_from_spec(spec)
            sys.modules[package].__path__ = [str(folder)]
        return importlib.import_module(f"{package}.{name}")

    return module


def test_model_explorer_reads_its_node_data(graph: PlacementGraph, model_explorer: Callable[[str], ModuleType]) -> None:
    builder = model_explorer("node_data_builder")
    document = json.loads(renderer("model-explorer")(graph))
    # Each class refuses a field that it does not have.
    results = {name: builder.NodeDataResult(**result) for name, result in document.pop("results").items()}
    data = builder.GraphNodeData(results=results, **document)
    assert set(data.results) == set(graph.graph)
    adapters = graph.nodes("adapter")
    total = sum(data.results[name].value for name in adapters)
    params = [graph.graph.nodes[name]["params"] * graph.graph.nodes[name].get("count", 1) for name in adapters]
    assert total == sum(params) > 0
    assert all(re.fullmatch("#[0-9a-f]{6}", each.bgColor) for each in data.results.values())


def test_model_explorer_reads_its_graph(graph: PlacementGraph, model_explorer: Callable[[str], ModuleType]) -> None:
    builder = model_explorer("graph_builder")
    document = json.loads(renderer("model-explorer-graph")(graph))
    (only,) = builder.GraphCollection(**document).graphs
    nodes = {node["id"]: builder.GraphNode(**node) for node in builder.Graph(**only).nodes}
    assert set(nodes) == set(graph.graph)
    for node in nodes.values():
        edges = [builder.IncomingEdge(**edge) for edge in node.incomingEdges]
        assert {edge.sourceNodeId for edge in edges} <= set(nodes)
        assert all(builder.KeyValue(**each).value == str(each["value"]) for each in node.attrs)
        assert ";" not in node.namespace
