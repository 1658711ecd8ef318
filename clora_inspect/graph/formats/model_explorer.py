"""Node data for Model Explorer: how many trainable parameters stand beside each node, and in the
colour of its status. It lies over the graph that `model_explorer_graph` writes.

The fields are those of Model Explorer 0.1.34, `model_explorer.node_data_builder.GraphNodeData`. A
file without the name of a graph belongs to the graph that is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora_inspect.graph.colours import COLOURS, PLAIN

if TYPE_CHECKING:
    from clora_inspect.graph.placement_graph import PlacementGraph


def render(graph: PlacementGraph) -> str:
    beside = _params_beside(graph)
    document = {
        "name": f"trainable parameters of {graph.graph.graph['job']}",
        "results": {
            name: {"value": beside[name], "bgColor": COLOURS.get(data.get("status", ""), PLAIN).fill}
            for name, data in graph.graph.nodes(data=True)
        },
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _params_beside(graph: PlacementGraph) -> dict[str, int]:
    """Return for each node the parameters of its own adapters: an adapter has those of its A and B
    in all folded layers, a module or a part those of the adapters beside it.
    """
    nodes: dict[str, dict[str, Any]] = dict(graph.graph.nodes(data=True))
    found = dict.fromkeys(nodes, 0)
    for name, data in nodes.items():
        if data["kind"] == "adapter":
            found[name] = data["params"] * data.get("count", 1)
            for beside in graph.graph.successors(name):
                found[beside] += found[name]
    # The parts of a fused linear come after it, so that theirs are added last.
    for start, end, kind in graph.graph.edges(data="kind"):
        if kind == "holds":
            found[start] += found[end]
    return found
