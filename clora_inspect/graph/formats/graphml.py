"""The placement graph in GraphML, for Gephi, yEd or another network library."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_inspect.graph.placement_graph import PlacementGraph


def render(graph: PlacementGraph) -> str:
    return graph.to_graphml()
