"""The placement graph in Mermaid, which GitHub draws inside Markdown.

A graph beyond Mermaid's limits is trimmed until it fits, and a comment in it says what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import Fate
from clora_inspect.graph.colours import COLOURS
from clora_inspect.graph.labels import label
from clora_inspect.graph.printable import printable
from clora_inspect.graph.trimming import to_depth, wrapped_only

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.graph.placement_graph import PlacementGraph

MOST_EDGES = 500
"""Mermaid's default `maxEdges`. It draws no larger graph, and a diagram cannot raise the limit."""
MOST_CHARACTERS = 50_000
"""Mermaid's default `maxTextSize`."""

BRACKETS = {"rank_class": ("[/", "/]"), "module": ("[", "]"), "part": ("([", "])"), "adapter": ("{{", "}}")}
# Mermaid's class names are one word, and "not adaptable" has two.
CLASSES = {fate.word: fate.word for fate in (Fate.WRAPPED, Fate.EXCLUDED, Fate.UNMATCHED)} | {
    Fate.NOT_ADAPTABLE.word: "plain"
}
STYLES = tuple(
    f"classDef {CLASSES[status]} fill:{colour.fill},stroke:{colour.stroke}" for status, colour in COLOURS.items()
)
_ENTITIES = str.maketrans({"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "`": "#96;"})


def render(graph: PlacementGraph) -> str:
    """Return the diagram; a comment in its second line says what was left out."""
    text = ""
    # The smallest graph is written even if it is too large: a user may have raised the limits.
    for trimmed, left_out in _smaller(graph):
        text = _rendered(trimmed, left_out)
        if trimmed.graph.number_of_edges() <= MOST_EDGES and len(text) <= MOST_CHARACTERS:
            break
    return text


def _smaller(graph: PlacementGraph) -> Iterator[tuple[PlacementGraph, str]]:
    """Yield smaller and smaller graphs, each with a description of what is left out."""
    yield graph, ""
    wrapped = wrapped_only(graph)
    yield wrapped, "modules without an adapter"
    for depth in range(6, 0, -1):
        yield to_depth(wrapped, depth), f"modules without an adapter, and what stands more than {depth} names deep"


def _rendered(graph: PlacementGraph, left_out: str) -> str:
    lines = ["flowchart LR"]
    if left_out:
        lines.append(f"  %% left out, to fit {MOST_EDGES} edges and {MOST_CHARACTERS} characters: {left_out}")
    # Nodes are numbered because Mermaid's identifiers cannot hold brackets and dots.
    numbers = {name: f"n{number}" for number, name in enumerate(graph.graph)}
    for name, data in graph.graph.nodes(data=True):
        opening, closing = BRACKETS[data["kind"]]
        words = "<br/>".join(map(_escaped, label(name, data)))
        style = f":::{CLASSES[data['status']]}" if data.get("status") else ""
        lines.append(f'  {numbers[name]}{opening}"{words}"{closing}{style}')
    for start, end, data in graph.graph.edges(data=True):
        arrow = "-.->" if data["kind"] == "adapts" else "-->"
        layers = f'|"{_escaped(data["layers"])}"|' if data.get("layers") else ""
        lines.append(f"  {numbers[start]} {arrow}{layers} {numbers[end]}")
    return "\n".join([*lines, *(f"  {style}" for style in STYLES), ""])


def _escaped(text: str) -> str:
    return printable(text).translate(_ENTITIES)
