"""Make a tree of a placement graph, for drawings and formats that nest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_inspect.graph.placement_graph import PlacementGraph


def parents(graph: PlacementGraph) -> dict[str, str | None]:
    """Return the parent of each node, in the order of the graph; None for a root.

    A module's parent is the module that contains it, an adapter's what it stands beside. A top
    module that several rank classes hold, in a folded graph, is a root.
    """
    kinds = dict(graph.graph.nodes(data="kind"))
    found: dict[str, str | None] = {}
    for name, kind in kinds.items():
        if kind == "adapter":
            above = list(graph.graph.successors(name))
        else:
            # A module above wins over the rank classes that hold some of the layers.
            all_above = [each for each in graph.graph.predecessors(name) if kinds[each] != "adapter"]
            above = [each for each in all_above if kinds[each] != "rank_class"] or all_above
        found[name] = above[0] if len(above) == 1 else None
    return found
