"""The placement graph for Model Explorer, which opens it with its built-in JSON loader.

The fields are those of Model Explorer 0.1.34, `model_explorer.graph_builder.GraphCollection`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora_inspect.graph.labels import last_name
from clora_inspect.graph.printable import printable
from clora_inspect.graph.tree import parents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.graph.placement_graph import PlacementGraph

# Model Explorer splits namespaces at these characters: look-alikes stand for them.
_SEPARATORS = str.maketrans({"/": "\u2215", ";": "\uff1b"})


def render(graph: PlacementGraph) -> str:
    job = printable(graph.graph.graph["job"])
    document = {"label": job, "graphs": [{"id": job, "nodes": _nodes(graph)}]}
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _nodes(graph: PlacementGraph) -> list[dict[str, Any]]:
    above = parents(graph)
    with_children = set(above.values())
    # Parents come before their children, so that their groups are known.
    groups: dict[str | None, str] = {None: ""}
    nodes = []
    for name in _from_the_roots(above):
        data = graph.graph.nodes[name]
        around = groups[above[name]]
        label = _label(name, data)
        groups[name] = f"{around}/{label}" if around else label
        nodes.append(
            {
                "id": name,
                "label": label,
                # A node with children is a group, and stands in its own group.
                "namespace": groups[name] if name in with_children else around,
                "attrs": [{"key": key, "value": printable(str(value))} for key, value in data.items()],
                "incomingEdges": [{"sourceNodeId": start} for start in _sources(graph, name)],
            }
        )
    return nodes


def _from_the_roots(above: Mapping[str, str | None]) -> list[str]:
    children: dict[str | None, list[str]] = {}
    for name, parent in above.items():
        children.setdefault(parent, []).append(name)
    order = list(children.get(None, ()))
    for name in order:
        order += children.get(name, ())
    return order


def _label(name: str, data: Mapping[str, Any]) -> str:
    words = {"adapter": "adapter", "part": data.get("part"), "rank_class": name}.get(data["kind"]) or last_name(name)
    return printable(words).translate(_SEPARATORS)


def _sources(graph: PlacementGraph, name: str) -> list[str]:
    """Return the nodes with an arrow to `name`. Groups show what modules contain."""
    nodes = graph.graph.nodes
    return [
        start
        for start, _, kind in graph.graph.in_edges(name, data="kind")
        if kind != "contains" or nodes[start]["kind"] == "rank_class"
    ]
