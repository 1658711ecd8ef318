"""The placement graph in Graphviz's DOT: `clora-inspect graph JOB -f dot | dot -Tsvg`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.graph.colours import COLOURS, PLAIN
from clora_inspect.graph.labels import label
from clora_inspect.graph.printable import printable

if TYPE_CHECKING:
    from clora_inspect.graph.placement_graph import PlacementGraph

SHAPES = {"rank_class": "folder", "module": "box", "part": "component", "adapter": "ellipse"}
STYLES = {"contains": "solid", "holds": "solid", "adapts": "dashed"}


def render(graph: PlacementGraph) -> str:
    lines = ["digraph placements {", "  rankdir=LR;", '  node [fontname="Helvetica", fontsize=10, style=filled];']
    for name, data in graph.graph.nodes(data=True):
        words = "\\n".join(map(_escaped, label(name, data)))
        lines.append(
            f'  {quoted(name)} [label="{words}", shape={SHAPES[data["kind"]]}, '
            f'fillcolor="{COLOURS.get(data.get("status", ""), PLAIN).fill}"];'
        )
    for start, end, data in graph.graph.edges(data=True):
        layers = f', label="{_escaped(data["layers"])}"' if data.get("layers") else ""
        lines.append(f"  {quoted(start)} -> {quoted(end)} [style={STYLES[data['kind']]}{layers}];")
    return "\n".join([*lines, "}", ""])


def quoted(name: str) -> str:
    """Quote a name: DOT takes any characters in a quoted identifier."""
    return f'"{_escaped(name)}"'


def _escaped(text: str) -> str:
    # The backslash is escaped first, because the other escapes are written with it.
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
