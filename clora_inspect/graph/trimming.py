"""Make a placement graph smaller: leave out modules that are deep in the tree or not adapted."""

from __future__ import annotations

from clora.plan import Fate
from clora_inspect.graph.placement_graph import PlacementGraph


def to_depth(graph: PlacementGraph, depth: int) -> PlacementGraph:
    """Keep modules of at most `depth` names, with their canonical parts and adapters."""
    deep = {
        name
        for name, data in graph.graph.nodes(data=True)
        if data["kind"] != "rank_class" and _depth(name, data["kind"]) > depth
    }
    return without(graph, deep)


def wrapped_only(graph: PlacementGraph) -> PlacementGraph:
    """Keep adapted modules, the modules above them, and the rank classes."""
    kept = {name for name, data in graph.graph.nodes(data=True) if data.get("status") == Fate.WRAPPED.word}
    # Go up from the adapted modules: the predecessors of a module are those that contain it.
    waiting = list(kept)
    while waiting:
        for parent in graph.graph.predecessors(waiting.pop()):
            if parent not in kept:
                kept.add(parent)
                waiting.append(parent)
    kept |= {name for name, data in graph.graph.nodes(data=True) if data["kind"] == "rank_class"}
    return without(graph, set(graph.graph) - kept)


def without(graph: PlacementGraph, dropped: set[str]) -> PlacementGraph:
    """Return the graph without these nodes and their edges."""
    return PlacementGraph.of(
        ((name, data) for name, data in graph.graph.nodes(data=True) if name not in dropped),
        (edge for edge in graph.graph.edges(data=True) if not {edge[0], edge[1]} & dropped),
        graph.graph.graph,
    )


def _depth(name: str, kind: str) -> int:
    """Return the number of names in the path; the dots in `{0..31}` separate nothing."""
    path = name.partition("/")[2] or name
    if kind in ("part", "adapter"):
        path = path.removesuffix(":adapter").partition("[")[0]
    depth, braces = 1, 0
    for character in path:
        braces += (character == "{") - (character == "}")
        depth += character == "." and not braces
    return depth
