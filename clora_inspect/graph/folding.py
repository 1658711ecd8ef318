"""Fold a placement graph: all rank classes share one module tree, and numbered siblings with equal
content share a node.

`pp0/decoder.layers.0` to `pp1/decoder.layers.15` become `decoder.layers.{0..31}` when everything
below them agrees. The rank classes keep their nodes and point at the layers that they hold. Each
folded node has a `count`, the number of modules that it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clora_inspect.graph.placement_graph import PlacementGraph
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.module_path import global_path

if TYPE_CHECKING:
    from collections.abc import Iterator

POSITION_ATTRIBUTES = ("module", "chunk", "global_layer", "members")
"""Attributes that say where a node stands. Nodes that differ only in these are folded."""


@dataclass
class _Tree:
    """The module trees of all rank classes, merged by global path. All keys are paths or names of
    rank classes.
    """

    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Path -> attributes of the node."""
    children: dict[str, dict[str, None]] = field(default_factory=dict)
    """Path -> paths of the children in their order. A dict, because a layer may have 100,000."""
    rank_classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    roots: dict[str, list[str]] = field(default_factory=dict)
    """Rank class -> paths of its top modules."""
    layers: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Rank class -> path of a list of layers -> numbers of the layers that the class holds."""
    numbers: dict[object, int] = field(default_factory=dict)
    """Attributes, or the content of a subtree -> their signature."""


def folded(graph: PlacementGraph) -> PlacementGraph:
    """Return the folded graph. Its nodes are named by path and stand in the order of the model."""
    return folded_with_numbers(graph)[0]


def folded_with_numbers(graph: PlacementGraph) -> tuple[PlacementGraph, dict[str, list[int]]]:
    """Return the folded graph, and folded node -> numbers of the siblings that it stands for.

    A name such as `decoder.layers.{24 of 0..50}` does not say which 24.
    """
    tree = _merged(graph)
    signatures: dict[str, int] = {}
    nodes: list[tuple[str, dict[str, Any]]] = list(tree.rank_classes.items())
    edges: list[tuple[str, str, dict[str, Any]]] = []
    # Path of a numbered module -> name of the folded node that stands for it.
    groups: dict[str, str] = {}

    def emit(path: str, name: str, count: int) -> None:
        nodes.append((name, {**_shared(tree.attributes[path]), "count": count}))
        for first, child_name, number in _children(tree, path, name, signatures, groups):
            emit(first, child_name, count * number)
            # An adapter points at the linear or part beside it; all other edges go down the tree.
            kind = tree.attributes[first]["kind"]
            if kind == "adapter":
                edges.append((child_name, name, {"kind": "adapts"}))
            else:
                edges.append((name, child_name, {"kind": "holds" if kind == "part" else "contains"}))

    for root in dict.fromkeys(root for roots in tree.roots.values() for root in roots):
        emit(root, root, 1)
    edges += _rank_class_edges(tree, groups)
    numbers: dict[str, list[int]] = {}
    for member, group in groups.items():
        numbers.setdefault(group, []).append(int(member.rpartition(".")[2]))
    return PlacementGraph.of(nodes, edges, graph.graph.graph), numbers


def _merged(graph: PlacementGraph) -> _Tree:
    tree = _Tree()
    paths: dict[str, str] = {}
    for name, data in graph.graph.nodes(data=True):
        if data["kind"] == "rank_class":
            tree.rank_classes[name] = data
            continue
        paths[name] = path = _path(name, data, paths)
        # Several rank classes may hold a module: the attributes of the first one are kept.
        tree.attributes.setdefault(path, data)
    for start, end, data in graph.graph.edges(data=True):
        parent, child = (end, start) if data["kind"] == "adapts" else (start, end)
        if parent in tree.rank_classes:
            tree.roots.setdefault(parent, []).append(paths[child])
            continue
        tree.children.setdefault(paths[parent], {})[paths[child]] = None
    # Experts are numbered, too, but rank classes get edges to layers only.
    for name, path in paths.items():
        stem, _, last = path.rpartition(".")
        if last.isdigit() and "global_layer" in tree.attributes[path] and stem.endswith("layers"):
            rank_class = name.partition("/")[0].partition("#")[0]
            tree.layers.setdefault(rank_class, {}).setdefault(stem, []).append(int(last))
    return tree


def _path(name: str, data: dict[str, Any], paths: dict[str, str]) -> str:
    """Return the global path of a node.

    Canonical parts and adapters are named after their module or part, whose path is in `paths`
    already: `PlacementGraph` adds nodes in that order.
    """
    if data["kind"] == "module":
        return global_path(data["module"], data.get("global_layer"))
    end = ":adapter" if data["kind"] == "adapter" else f"[{data['part']}]"
    return paths[name.removesuffix(end)] + end


def _children(
    tree: _Tree, path: str, name: str, signatures: dict[str, int], groups: dict[str, str]
) -> Iterator[tuple[str, str, int]]:
    """Yield the first of each group of equal children, the name of the group and its size."""
    alike: dict[object, list[str]] = {}
    for child in tree.children.get(path, ()):
        number = child[len(path) + 1 :]
        # Children with names differ in them and never fold; numbered ones fold by content.
        key = (_signature(tree, child, signatures), True) if number.isdigit() else (child, False)
        alike.setdefault(key, []).append(child)
    for members in alike.values():
        suffix = members[0][len(path) :]
        if suffix[1:].isdigit():
            suffix = f".{fold(int(member[len(path) + 1 :]) for member in members)}"
            groups.update(dict.fromkeys(members, name + suffix))
        yield members[0], name + suffix, len(members)


def _signature(tree: _Tree, path: str, known: dict[str, int]) -> int:
    """Return a number that is equal for nodes with equal attributes and equal subtrees."""
    if path not in known:
        below = [(child[len(path) :], _signature(tree, child, known)) for child in sorted(tree.children.get(path, ()))]
        attributes = sorted((key, str(value)) for key, value in _shared(tree.attributes[path]).items())
        # Numbers stand for the attributes and for the subtrees: nested tuples would be hashed down
        # to the last leaf again on each level, and 100,000 modules have few different attributes.
        own = tree.numbers.setdefault(tuple(attributes), len(tree.numbers))
        known[path] = tree.numbers.setdefault((own, *below), len(tree.numbers))
    return known[path]


def _shared(attributes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key not in POSITION_ATTRIBUTES}


def _rank_class_edges(tree: _Tree, groups: dict[str, str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the edges from each rank class to its top modules and to the groups of its layers."""
    for rank_class in tree.rank_classes:
        for root in dict.fromkeys(tree.roots.get(rank_class, ())):
            yield rank_class, root, {"kind": "contains"}
        for stem, numbers in tree.layers.get(rank_class, {}).items():
            held: dict[str, list[int]] = {}
            for number in numbers:
                held.setdefault(groups[f"{stem}.{number}"], []).append(number)
            for group, layers in held.items():
                yield rank_class, group, {"kind": "contains", "layers": fold(layers)}
