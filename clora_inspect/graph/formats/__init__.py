"""The formats of the placement graph. Each is a module of this folder with a function
`render(graph) -> str`, and has a row in `FORMATS`. A format is imported only when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from clora.limits import LARGEST_GRAPH
from clora_inspect.graph.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.graph.placement_graph import PlacementGraph


@dataclass(frozen=True, slots=True)
class GraphFormat:
    """One format, as a user chooses it."""

    title: str
    suffixes: tuple[str, ...]
    """Suffixes of its files, the usual one first. None where another format has the suffix."""
    words: str
    """The programs that read it."""


FORMATS = {
    "dot": GraphFormat("DOT", (".dot", ".gv"), "for Graphviz"),
    "mermaid": GraphFormat("Mermaid", (".mmd",), "for Markdown"),
    "graphml": GraphFormat("GraphML", (".graphml",), "for Gephi, yEd and networkx"),
    "json": GraphFormat("JSON", (".json",), "networkx's node-link data"),
    "svg": GraphFormat("SVG", (".svg",), "a picture, for a browser or Markdown"),
    "model-explorer": GraphFormat("Model Explorer", (), "node data, to lie over the next one"),
    "model-explorer-graph": GraphFormat("Model Explorer's graph", (), "for Model Explorer"),
}
"""The name of the module, with hyphens -> the format; the default first."""

SUFFIXES = {suffix: name for name, each in FORMATS.items() for suffix in each.suffixes}


def renderer(name: str) -> Callable[[PlacementGraph], str]:
    """Return the function that renders a graph in the format called `name`.

    It raises `GraphError` for a graph that is too large.
    """
    render: Callable[[PlacementGraph], str] = import_module(f"{__name__}.{name.replace('-', '_')}").render

    def render_bounded(graph: PlacementGraph) -> str:
        size = graph.graph.number_of_nodes()
        if size > LARGEST_GRAPH:
            raise GraphError(
                f"the graph has {size:,} nodes, and {LARGEST_GRAPH:,} is the most. "
                "Leave out --expand, or show less of it, as with --depth 5."
            )
        return render(graph)

    return render_bounded
