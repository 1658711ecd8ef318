"""The placement graph: module tree, canonical parts, adapters and rank classes as a networkx graph.

The names of nodes are unique over all rank classes. `pp0/decoder.layers.0.mlp.linear_fc1` is a
module on pipeline stage 0; in the second virtual chunk it would be `pp0#1/...`. The node
`...linear_fc1[up]` is a canonical part of it and `...linear_fc1[up]:adapter` its adapter.
Attributes are plain numbers and strings, so that every networkx writer can save them.

| `kind` | what | `status` |
|---|---|---|
| `rank_class` | the ranks that hold the same modules | |
| `module` | a module of the model | wrapped, excluded, unmatched, not adaptable |
| `part` | a canonical part of a fused linear | wrapped, excluded, unmatched |
| `adapter` | one pair A and B | wrapped |

In a model of several modalities a `module` has the path (`tower`) and the kind (`tower_kind`:
language, vision, audio or projector) of the tower that holds it.

Edges have a `kind` too: `contains` (tree), `holds` (fused linear to part), `adapts` (adapter to
what it stands beside).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import networkx as nx

from clora.limits import LARGEST_GRAPH_MODULES
from clora.plan import Fate
from clora_inspect.graph.errors import GraphError
from clora_inspect.graph.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clora.plan import Placement, Skip
    from clora_inspect.job.plan import JobPlan, RankClass
    from clora_inspect.job.towers import Towers


@dataclass(frozen=True, slots=True)
class PlacementGraph:
    """A job's placements as a directed graph, from the model's root down to every adapter."""

    graph: nx.DiGraph[str]

    @classmethod
    def from_job_plan(cls, plan: JobPlan) -> PlacementGraph:
        """Build the graph of `plan`.

        Raises:
            GraphError: it would take minutes or all of the memory.
        """
        size = sum(len(ranks.placements) + len(ranks.skipped) for ranks in plan.rank_classes)
        if size > LARGEST_GRAPH_MODULES:
            raise GraphError(
                f"the graph has {size:,} modules and parts, and {LARGEST_GRAPH_MODULES:,} is the most. "
                "Plan the model with fewer layers, or with its experts in groups."
            )
        graph: nx.DiGraph[str] = nx.DiGraph(
            job=plan.model.name, **{f"total_{name}": count for name, count in _totals(plan).items()}
        )
        for rank_class in plan.rank_classes:
            _add_rank_class(graph, rank_class)
        if plan.towers.are_several:
            _name_towers(graph, plan.towers)
        return cls(graph)

    def to_networkx(self) -> nx.DiGraph[str]:
        """Return a copy of the graph, which the caller may change."""
        return self.graph.copy()

    def to_node_link(self) -> dict[str, Any]:
        """Return networkx's node-link form: `{"nodes": [...], "edges": [...], "graph": {...}}`."""
        # Without `edges`, networkx 3.4 and 3.5 warn and write the key as "links".
        data: dict[str, Any] = nx.node_link_data(self.graph, edges="edges")
        return data

    @classmethod
    def of(
        cls,
        nodes: Iterable[tuple[str, dict[str, Any]]],
        edges: Iterable[tuple[str, str, dict[str, Any]]],
        attributes: Mapping[str, Any],
    ) -> PlacementGraph:
        """Build a graph of these nodes and edges, in this order.

        Folding and trimming build their smaller graphs with it.

        Args:
            nodes: names with attributes.
            edges: start, end and attributes.
            attributes: the attributes of the graph itself.
        """
        graph: nx.DiGraph[str] = nx.DiGraph(**attributes)
        graph.add_nodes_from(nodes)
        graph.add_edges_from(edges)
        return cls(graph)

    def to_graphml(self) -> str:
        """Return the graph as GraphML. Control characters are replaced: XML cannot hold them."""
        # networkx writes them unchanged, and no reader accepts such a file.
        clean = nx.DiGraph(**{name: _in_xml(value) for name, value in self.graph.graph.items()})
        for name, data in self.graph.nodes(data=True):
            clean.add_node(printable(name), **{key: _in_xml(value) for key, value in data.items()})
        for start, end, data in self.graph.edges(data=True):
            clean.add_edge(printable(start), printable(end), **data)
        return "\n".join(nx.generate_graphml(clean)) + "\n"

    def nodes(self, kind: str, status: str | None = None) -> list[str]:
        """Return the names of the nodes of one kind; with `status` only those that have it."""
        return [
            name
            for name, data in self.graph.nodes(data=True)
            if data["kind"] == kind and status in (None, data.get("status"))
        ]


def _totals(plan: JobPlan) -> dict[str, int]:
    totals = plan.totals
    return {
        "base_params": totals.base_params,
        "trainable_params": totals.trainable_params,
        "placements": totals.placements,
        "wrapped_modules": totals.wrapped_modules,
    }


def _add_rank_class(graph: nx.DiGraph[str], rank_class: RankClass) -> None:
    root = f"pp{rank_class.pp}"
    graph.add_node(
        root,
        kind="rank_class",
        pp=rank_class.pp,
        count=rank_class.count,
        members=", ".join(f"{first}-{last}" for first, last in rank_class.members),
        base_params=rank_class.base_params,
        trainable_params=rank_class.trainable_params,
    )
    # Nodes are added in the order module, part, adapter: `folding` relies on it.
    for skip in rank_class.skipped:
        if skip.part is None:
            _add_skipped_module(graph, root, skip)
    for placement in rank_class.placements:
        _add_placement(graph, root, placement)
    # Parts come last: their module was added with an adapted part, if it has one.
    for skip in rank_class.skipped:
        if skip.part is not None:
            if _node(root, skip.chunk, skip.module) not in graph:
                _add_skipped_module(graph, root, msgspec.structs.replace(skip, part=None))
            _add_part(graph, _node(root, skip.chunk, skip.module), skip.part, _status(skip))
    _connect_tree(graph, root)


def _name_towers(graph: nx.DiGraph[str], towers: Towers) -> None:
    """Give each module the path and the kind of the tower that holds it."""
    for _, data in graph.nodes(data=True):
        if data["kind"] == "module":
            tower = towers.of(data["module"])
            data |= {"tower": tower.path, "tower_kind": tower.kind.value}


def _status(skip: Skip) -> str:
    # Readers of the graph know four statuses: a module without parameters is not adaptable there.
    return (Fate.NOT_ADAPTABLE if skip.reason is Fate.NO_PARAMETERS else skip.reason).word


def _node(root: str, chunk: int, module: str) -> str:
    return f"{root}#{chunk}/{module}" if chunk else f"{root}/{module}"


def _add_skipped_module(graph: nx.DiGraph[str], root: str, skip: Skip) -> None:
    graph.add_node(
        _node(root, skip.chunk, skip.module),
        kind="module",
        status=_status(skip),
        reason=str(skip.reason),
        **_known(
            module=skip.module, chunk=skip.chunk, global_layer=skip.global_layer, base_class=skip.class_name, by=skip.by
        ),
    )


def _add_placement(graph: nx.DiGraph[str], root: str, placement: Placement) -> None:
    base = _node(root, placement.chunk, placement.module)
    graph.add_node(
        base,
        kind="module",
        status=Fate.WRAPPED.word,
        **_known(
            module=placement.module,
            chunk=placement.chunk,
            global_layer=placement.global_layer,
            base_class=placement.base_class,
            wrapper=placement.wrapper,
        ),
    )
    beside = _add_part(graph, base, placement.part, Fate.WRAPPED.word) if placement.part else base
    adapter = f"{beside}:adapter"
    graph.add_node(
        adapter,
        kind="adapter",
        status=Fate.WRAPPED.word,
        **_known(
            adapter_class=placement.adapter_class,
            dim=placement.dim,
            alpha=placement.alpha,
            params=placement.params,
            a_shape=_shape(placement.a_shape),
            b_shape=_shape(placement.b_shape),
            a_axes=_axes(placement.a_axes),
            b_axes=_axes(placement.b_axes),
            target=placement.target,
            num_local_experts=placement.experts.num_local_experts if placement.experts else None,
            per_expert=placement.experts.per_expert if placement.experts else None,
        ),
    )
    graph.add_edge(adapter, beside, kind="adapts")


def _add_part(graph: nx.DiGraph[str], base: str, part: str, status: str) -> str:
    name = f"{base}[{part}]"
    graph.add_node(name, kind="part", status=status, part=part)
    graph.add_edge(base, name, kind="holds")
    return name


def _connect_tree(graph: nx.DiGraph[str], root: str) -> None:
    """Add edges from each module to its children, and from the rank class to the top modules."""
    for name in [
        name
        for name, data in graph.nodes(data=True)
        if data["kind"] == "module" and name.startswith((f"{root}/", f"{root}#"))
    ]:
        stem, _, path = name.partition("/")
        parent = path.rpartition(".")[0]
        graph.add_edge(f"{stem}/{parent}" if parent else root, name, kind="contains")


def _known(**attributes: object) -> dict[str, object]:
    """Return the attributes that have a value: graph formats have no null."""
    return {name: value for name, value in attributes.items() if value is not None}


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _axes(axes: tuple[str | None, ...]) -> str:
    return ",".join(axis or "-" for axis in axes)


def _in_xml(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
