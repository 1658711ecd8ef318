"""The placement graph as a picture in SVG, for a browser or a Markdown page.

The layout is our own, because Graphviz's `dot` is missing on most machines: the graph is a tree but
for the edges of rank classes, and a tree needs no search for a layout. Each node stands right of
its parent, in the middle of its children. A graph of 20,000 nodes takes about a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from unicodedata import east_asian_width
from xml.etree import ElementTree as ET

from clora_inspect.graph.colours import COLOURS, PLAIN
from clora_inspect.graph.labels import label
from clora_inspect.graph.printable import printable
from clora_inspect.graph.tree import parents

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from clora_inspect.graph.placement_graph import PlacementGraph

# All sizes are in pixels.
CHARACTER = 6.7
"""Width of a character of the font below. Fonts differ: the boxes have a margin."""
LINE, MARGIN, GAP, COLUMN_GAP, EDGE = 14, 6, 6, 44, 16
HEAD = 54
"""Height of the heading and the legend."""
MOST_CHARACTERS = 60
"""A longer line of a node is cut; the whole name is in its tooltip."""

CORNERS = {"rank_class": 0, "module": 3, "part": 8, "adapter": 16}
"""Kind of a node -> radius of the corners of its box."""


@dataclass(slots=True)
class Box:
    """The place of a node."""

    column: int
    lines: list[str]
    top: float = 0.0
    """Upper end of the band that the node shares with everything below it."""
    band: float = 0.0
    """Height of that band."""
    x: float = 0.0
    y: float = 0.0
    """Upper left corner of the box."""

    @property
    def width(self) -> float:
        return max(map(_columns, self.lines)) * CHARACTER + 2 * MARGIN

    @property
    def height(self) -> float:
        return len(self.lines) * LINE + 2 * MARGIN


def render(graph: PlacementGraph) -> str:
    """Return the picture. Nodes and edges have `data-` attributes with their names."""
    root = drawing(graph)
    root.attrib = {"xmlns": "http://www.w3.org/2000/svg", **root.attrib}
    # Behind the title.
    style = ET.Element("style")
    style.text = style_in("")
    root.insert(1, style)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"


def drawing(graph: PlacementGraph) -> ET.Element:
    """Return the picture without its style, to stand in a page that has `style_in`."""
    boxes = _placed(graph)
    width = max((box.x + box.width for box in boxes.values()), default=0) + EDGE
    height = max((box.top + box.band for box in boxes.values()), default=HEAD) + EDGE
    heading = _heading(graph.graph.graph)
    width = max(width, _columns(heading) * CHARACTER * 1.2 + 2 * EDGE, 420)
    root = ET.Element(
        "svg",
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        width=_number(width),
        height=_number(height),
        role="img",
    )
    ET.SubElement(root, "title").text = heading
    ET.SubElement(root, "rect", {"class": "paper", "width": "100%", "height": "100%"})
    ET.SubElement(root, "text", {"class": "heading", "x": _number(EDGE), "y": "24"}).text = heading
    _draw_legend(root)
    edges = ET.SubElement(root, "g", {"class": "edges"})
    tree = {(parent, name) for name, parent in parents(graph).items()}
    for start, end, data in graph.graph.edges(data=True):
        is_faint = data["kind"] == "contains" and (start, end) not in tree
        _draw_edge(edges, (start, end), boxes, data, is_faint=is_faint)
    nodes = ET.SubElement(root, "g", {"class": "nodes"})
    for name, data in graph.graph.nodes(data=True):
        _draw_node(nodes, name, boxes[name], data)
    return root


def _heading(attributes: Mapping[str, Any]) -> str:
    return (
        f"{_cut(printable(attributes['job']))} · {attributes['total_placements']:,} adapters · "
        f"{attributes['total_trainable_params']:,} trainable parameters"
    )


def style_in(scope: str) -> str:
    """Return the CSS of the picture. `scope` begins each selector, such as `.drawing `: a page has
    other text and other boxes.
    """
    fills = "".join(
        f"{scope}.{_class(status)} rect{{fill:{colour.fill};stroke:{colour.stroke}}}"
        for status, colour in COLOURS.items()
    )
    return (
        f"{scope}text{{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#1a1a1a}}"
        f"{scope}.heading{{font-size:13px;font-weight:bold}}{scope}.paper{{fill:#ffffff}}"
        f"{scope}rect{{stroke-width:1}}{scope}.plain rect{{fill:{PLAIN.fill};stroke:{PLAIN.stroke}}}{fills}"
        f"{scope}path{{fill:none;stroke:#8a8a8a}}{scope}.adapts{{stroke-dasharray:4 3}}"
        f"{scope}.held{{stroke-opacity:.4}}"
        # The boxes stay light, and so does the text in them dark.
        "@media (prefers-color-scheme:dark){"
        f"{scope}.paper{{fill:#16181d}}{scope}.heading,{scope}.legend text{{fill:#e6e6e6}}}}"
    )


def _class(status: str | None) -> str:
    return status.replace(" ", "-") if status else "plain"


def _placed(graph: PlacementGraph) -> dict[str, Box]:
    """Return the place of each node."""
    above = parents(graph)
    children: dict[str | None, list[str]] = {}
    for name, parent in above.items():
        children.setdefault(parent, []).append(name)
    data_of = graph.graph.nodes
    boxes: dict[str, Box] = {}
    has_ranks = any(kind == "rank_class" for _, kind in graph.graph.nodes(data="kind"))
    # From the roots to the leaves, without recursion: a hostile path may have thousands of names.
    order = list(children.get(None, ()))
    for name in order:
        parent = above[name]
        lines = [_cut(printable(line)) for line in (*label(name, data_of[name]), *_layers(graph, name))]
        # Modules stand right of the rank classes, even if several of these hold them.
        first = int(has_ranks and data_of[name]["kind"] != "rank_class")
        boxes[name] = Box(column=boxes[parent].column + 1 if parent is not None else first, lines=lines)
        order += children.get(name, ())
    for name in reversed(order):
        below = sum(boxes[child].band for child in children.get(name, ()))
        boxes[name].band = max(boxes[name].height + GAP, below)
    _set_columns(boxes)
    top = float(HEAD)
    for name in children.get(None, ()):
        boxes[name].top = top
        top += boxes[name].band
    for name in order:
        box = boxes[name]
        box.y = box.top + (box.band - box.height) / 2
        held = children.get(name, ())
        top = box.top + (box.band - sum(boxes[child].band for child in held)) / 2
        for child in held:
            boxes[child].top = top
            top += boxes[child].band
    return boxes


def _layers(graph: PlacementGraph, name: str) -> Iterator[str]:
    """Yield the layers that a rank class of a folded graph holds; on edges they would overlap."""
    held = [layers for _, _, layers in graph.graph.out_edges(name, data="layers") if layers]
    if held:
        yield f"layers {', '.join(held)}"


def _set_columns(boxes: Mapping[str, Box]) -> None:
    widths: dict[int, float] = {}
    for box in boxes.values():
        widths[box.column] = max(widths.get(box.column, 0), box.width)
    lefts = [float(EDGE)]
    for column in range(len(widths)):
        lefts.append(lefts[-1] + widths[column] + COLUMN_GAP)
    for box in boxes.values():
        box.x = lefts[box.column]


def _draw_legend(root: ET.Element) -> None:
    x = float(EDGE)
    legend = ET.SubElement(root, "g", {"class": "legend"})
    for status in COLOURS:
        each = ET.SubElement(legend, "g", {"class": _class(status)})
        ET.SubElement(each, "rect", x=_number(x), y="33", width="10", height="10")
        ET.SubElement(each, "text", x=_number(x + 15), y="42").text = status
        x += 15 + (len(status) + 3) * CHARACTER


def _draw_edge(
    parent: ET.Element, ends: tuple[str, str], boxes: Mapping[str, Box], data: Mapping[str, Any], *, is_faint: bool
) -> None:
    # An adapter points back at what it stands beside; its line is drawn from left to right, too.
    left, right = sorted((boxes[name] for name in ends), key=lambda box: box.x)
    x, y = left.x + left.width, left.y + left.height / 2
    x2, y2 = right.x, right.y + right.height / 2
    middle = _number((x + x2) / 2)
    curve = f"M{_number(x)} {_number(y)}C{middle} {_number(y)} {middle} {_number(y2)} {_number(x2)} {_number(y2)}"
    path = {
        "class": "held" if is_faint else data["kind"],
        "d": curve,
        "data-start": printable(ends[0]),
        "data-end": printable(ends[1]),
    }
    if data.get("layers"):
        path["data-layers"] = printable(data["layers"])
    ET.SubElement(parent, "path", path)


def _draw_node(parent: ET.Element, name: str, box: Box, data: Mapping[str, Any]) -> None:
    words = f"{data['kind'].replace('_', '-')} {_class(data.get('status'))}"
    group = ET.SubElement(parent, "g", {"class": words, "data-name": printable(name)})
    ET.SubElement(group, "title").text = "\n".join(_tooltip(name, data))
    ET.SubElement(
        group,
        "rect",
        x=_number(box.x),
        y=_number(box.y),
        width=_number(box.width),
        height=_number(box.height),
        rx=str(CORNERS[data["kind"]]),
    )
    for number, line in enumerate(box.lines):
        y = box.y + MARGIN + LINE * number + 11
        ET.SubElement(group, "text", x=_number(box.x + MARGIN), y=_number(y)).text = line


def _tooltip(name: str, data: Mapping[str, Any]) -> Iterator[str]:
    yield printable(name)
    yield from (printable(f"{key}: {value}") for key, value in data.items())


def _columns(line: str) -> int:
    """Return the width of `line` in characters of a fixed width; Chinese ones take two."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in line)


def _cut(line: str) -> str:
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…"


def _number(value: float) -> str:
    """Return a coordinate with one digit after the point at most."""
    return f"{value:.1f}".removesuffix(".0")
