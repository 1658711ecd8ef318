"""The placement graph in networkx's node-link JSON:
`networkx.node_link_graph(json.load(file), edges="edges")` reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from clora_inspect.graph.placement_graph import PlacementGraph


def render(graph: PlacementGraph) -> str:
    return msgspec.json.format(msgspec.json.encode(graph.to_node_link()), indent=1).decode() + "\n"
