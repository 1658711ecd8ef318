"""A plan -> its module tree. Layers that are alike are worked out once and written down as often as
they occur. Pure.

A model of 120,000 modules has a few kinds of layers: what the second of a kind looks like is known,
but for its number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from clora.plan import Placement, Reason, Skip
from clora_inspect.job.module_path import global_path
from clora_inspect.tui.tree.nodes import ModelNodes, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.job.plan import JobPlan

    Entry = Placement | Skip

LAYERS = "decoder.layers"

_STATUS = {
    Reason.EXCLUDED: Status.EXCLUDED,
    Reason.NOT_TARGETED: Status.MISSED,
    Reason.NOT_ADAPTABLE: Status.NO_FORM,
    Reason.NO_PARAMETERS: Status.CONTAINER,
}

_IN_ORDER = (
    "embedding",
    "decoder",
    "mtp",
    "input_layernorm",
    "self_attention",
    "linear_q_proj",
    "linear_q_down_proj",
    "q_layernorm",
    "linear_q_up_proj",
    "linear_kv_down_proj",
    "kv_layernorm",
    "linear_kv_up_proj",
    "linear_qkv",
    "core_attention",
    "linear_proj",
    "pre_mlp_layernorm",
    "mlp",
    "router",
    "linear_fc1",
    "linear_fc2",
    "experts",
    "shared_experts",
    "final_layernorm",
    "output_layer",
)
_READING_ORDER = {name: number for number, name in enumerate(_IN_ORDER)}
"""The order in which a token meets the modules; the planner lists what it adapts and what it leaves
apart.
"""

_placement_facts = attrgetter(
    "part",
    "base_class",
    "alpha",
    "a_shape",
    "b_shape",
    "a_global_shape",
    "b_global_shape",
    "a_axes",
    "target",
    "experts",
    "copies",
)
_skip_facts = attrgetter("part", "class_name", "reason", "by", "params", "copies", "linears")
"""What makes two entries look alike on the screen."""


class _Run(NamedTuple):
    """Entries of one layer, as they follow each other in the plan of a rank class."""

    number: int
    """The rank class."""
    head: str
    """`decoder.layers.3`, the layer's path inside its model chunk."""
    entries: list[Entry]


@dataclass(slots=True)
class _Found:
    """A module while the tree is made."""

    name: str
    children: list[_Found] = field(default_factory=list)
    entry: Entry | None = None
    at: int = -1
    """Number of `entry` among those of its layer."""
    classes: tuple[int, ...] = ()
    """Rank classes that hold it."""
    placed: int = 0
    """Its canonical parts that are adapted; those that are not are its other children."""
    layer: _Layer | None = None
    """The layer, where this is one."""


@dataclass(slots=True)
class _Kind:
    """What all layers of a kind have in common: a tree whose paths begin at the layer, and whose
    rank classes are numbered from 0.
    """

    nodes: ModelNodes
    order: list[int]
    """Node -> number of its entry among those of the layer; -1 for none."""


class _Layer(NamedTuple):
    """One layer: its kind, and what is its own."""

    kind: _Kind
    entries: list[Entry | None]
    """Its entries as `order` numbers them, then None."""
    numbers: tuple[int, ...]
    """Rank classes that hold it."""


def model_nodes(plan: JobPlan, classes: Sequence[int] | None = None) -> ModelNodes:
    """The modules that the rank classes `classes` hold (all of them when None), as one tree."""
    builder = _TreeBuilder()
    for number in range(len(plan.rank_classes)) if classes is None else classes:
        rank_class = plan.rank_classes[number]
        both: tuple[tuple[Entry, ...], ...] = (rank_class.skipped, rank_class.placements)
        for entries in both:
            for layer, same in groupby(entries, attrgetter("global_layer")):
                builder.add_run(number, layer, list(same))
    return builder.nodes()


class _TreeBuilder:
    """The tree while it is made."""

    def __init__(self) -> None:
        self._root = _Found("")
        self._by_path = {"": self._root}
        self._runs: dict[int, list[_Run]] = {}
        self._kinds: dict[object, list[tuple[object, _Kind]]] = {}
        self._known: dict[object, int] = {}

    def add_run(self, number: int, layer: int | None, entries: list[Entry]) -> None:
        """Add entries of one rank class that follow each other and are of one layer, or of none."""
        head = _head_of(entries) if layer is not None else None
        if layer is None or head is None:
            for entry in entries:
                _add(self._by_path, global_path(entry.module, layer), entry, number)
            return
        if LAYERS not in self._by_path:
            _new(LAYERS, self._by_path)
        self._runs.setdefault(layer, []).append(_Run(number, head, entries))

    def nodes(self) -> ModelNodes:
        """The tree."""
        for layer, runs in self._runs.items():
            path = f"{LAYERS}.{layer}"
            if path in self._by_path:
                # A part of the layer came otherwise: then all of it does.
                for number, _, entries in runs:
                    for entry in entries:
                        _add(self._by_path, global_path(entry.module, layer), entry, number)
            else:
                _new(path, self._by_path).layer = self._layer(runs)
        return _flattened(self._root, self._known)[0]

    def _layer(self, runs: list[_Run]) -> _Layer:
        numbers = tuple(dict.fromkeys(run.number for run in runs))
        places = tuple(
            (numbers.index(number), tuple([entry.module[len(head) :] for entry in entries]))
            for number, head, entries in runs
        )
        facts = [
            list(map(_placement_facts if isinstance(entries[0], Placement) else _skip_facts, entries))
            for _, _, entries in runs
        ]
        # Facts are compared and not hashed: they differ early where they differ, and there are few
        # kinds with the same places.
        alike = self._kinds.setdefault(places, [])
        kind = next((each for known, each in alike if known == facts), None)
        if kind is None:
            kind = _kind_of(runs, numbers, self._known)
            alike.append((facts, kind))
        return _Layer(kind, [*(entry for run in runs for entry in run.entries), None], numbers)


def _head_of(entries: list[Entry]) -> str | None:
    """`decoder.layers.3` where all entries stand in that layer; else None."""
    first = entries[0].module
    if not first.startswith(f"{LAYERS}."):
        return None
    local, _, _ = first[len(LAYERS) + 1 :].partition(".")
    head = f"{LAYERS}.{local}"
    end = len(head) + 1
    return head if {entry.module[:end] for entry in entries} <= {head, f"{head}."} else None


def _kind_of(runs: list[_Run], numbers: tuple[int, ...], known: dict[object, int]) -> _Kind:
    root = _Found("")
    by_path = {"": root}
    at = 0
    for number, head, entries in runs:
        for entry in entries:
            _add(by_path, entry.module[len(head) + 1 :], entry, numbers.index(number)).at = at
            at += 1
    return _Kind(*_flattened(root, known))


def _add(by_path: dict[str, _Found], path: str, entry: Entry, number: int) -> _Found:
    """Put an entry at its place in the tree."""
    found = by_path.get(path) or _new(path, by_path)
    own = (number,)
    if entry.part:
        part = f"{path}[{entry.part}]"
        found.classes = found.classes or own
        parent, found = found, by_path.get(part) or _Found(f"[{entry.part}]")
        if part not in by_path:
            by_path[part] = found
            parent.children.append(found)
            parent.placed += isinstance(entry, Placement)
    found.entry = entry
    if number not in found.classes:
        found.classes = (*found.classes, number) if found.classes else own
    return found


def _new(path: str, by_path: dict[str, _Found]) -> _Found:
    """The module at `path`, hung below its parent, which is made when the plan did not name it yet."""
    stem, _, name = path.rpartition(".")
    parent = by_path.get(stem) or _new(stem, by_path)
    made = by_path[path] = _Found(name)
    parent.children.append(made)
    return made


def _flattened(root: _Found, known: dict[object, int]) -> tuple[ModelNodes, list[int]]:
    """The arrays, and for every node the number of its entry."""
    nodes = ModelNodes()
    order: list[int] = []
    spine: list[int] = []
    stack: list[tuple[_Found, int]] = [(root, 0)]
    while stack:
        found, parent = stack.pop()
        here = len(nodes.paths)
        spine.append(here)
        above = nodes.paths[parent] if here else ""
        path = f"{above}{found.name}" if not above or found.name[0:1] == "[" else f"{above}.{found.name}"
        if found.layer is not None:
            _write_layer(nodes, found, parent, path)
            continue
        nodes.paths.append(path)
        nodes.names.append(found.name)
        nodes.parents.append(parent)
        nodes.ends.append(here + 1)
        nodes.entries.append(found.entry)
        nodes.classes.append(found.classes)
        nodes.statuses.append(_status(found))
        for sums in (nodes.adapters, nodes.params, nodes.missed):
            sums.append(0)
        nodes.kinds.append(-1)
        nodes.shown.append(0)
        order.append(found.at)
        if found.children:
            stack.extend((child, here) for child in reversed(_ordered(found.children)))
    _sum_up(nodes, spine, known)
    return nodes, order


def _write_layer(nodes: ModelNodes, found: _Found, parent: int, path: str) -> None:
    """Append a layer that was worked out before."""
    layer = found.layer
    if layer is None:
        return
    same, order = layer.kind.nodes, layer.kind.order
    here = len(nodes.paths)
    inside = f"{path}."
    nodes.paths.append(path)
    nodes.paths += [inside + rest for rest in same.paths[1:]]
    nodes.names.append(found.name)
    nodes.names += same.names[1:]
    nodes.parents.append(parent)
    nodes.parents += [here + each for each in same.parents[1:]]
    nodes.ends += [here + each for each in same.ends]
    entries = layer.entries
    nodes.entries += [entries[number] for number in order]
    held = {positions: tuple(layer.numbers[each] for each in positions) for positions in set(same.classes)}
    nodes.classes += [held[positions] for positions in same.classes]
    nodes.statuses += same.statuses
    nodes.adapters += same.adapters
    nodes.params += same.params
    nodes.missed += same.missed
    nodes.kinds += same.kinds
    nodes.shown += same.shown


def _status(found: _Found) -> Status:
    entry = found.entry
    if isinstance(entry, Placement):
        return Status.ADAPTED
    if found.placed:
        return Status.PARTLY if found.placed < len(found.children) else Status.ADAPTED
    return _STATUS[entry.reason] if isinstance(entry, Skip) else Status.CONTAINER


def _ordered(children: list[_Found]) -> list[_Found]:
    """Numbers as numbers, known names as a token meets them, the rest where the plan has them."""
    if len(children) < 2 or children[0].name[0:1] == "[":
        return _parts_in_order(children)
    if all(child.name.isdigit() for child in children):
        return sorted(children, key=lambda child: int(child.name))
    place = -1
    keys = []
    for number, child in enumerate(children):
        place = _READING_ORDER.get(child.name, place)
        keys.append((place, number))
    return [children[number] for _, number in sorted(keys)]


def _parts_in_order(children: list[_Found]) -> list[_Found]:
    order = ["[q]", "[k]", "[v]", "[gate]", "[up]"]
    return sorted(children, key=lambda child: order.index(child.name) if child.name in order else len(order))


def _sum_up(nodes: ModelNodes, spine: list[int], known: dict[object, int]) -> None:
    """Ends, sums, kinds and what is shown: one pass from the last node to the first, children
    before parents.

    Args:
        nodes: the arrays; a layer that was written down has its own already.
        spine: the nodes but for what is inside of such layers.
        known: numbers of the kinds that were met before.
    """
    names, parents, entries, statuses = nodes.names, nodes.parents, nodes.entries, nodes.statuses
    ends, kinds, shown = nodes.ends, nodes.kinds, nodes.shown
    adapters, params, missed = nodes.adapters, nodes.params, nodes.missed
    below: dict[int, list[tuple[str, int]]] = {}
    for node in reversed(spine):
        if kinds[node] < 0:
            entry = entries[node]
            own: object = None
            if isinstance(entry, Skip):
                own = _skip_facts(entry)
                missed[node] += entry.linears * entry.copies
            elif entry is not None:
                own = _placement_facts(entry)
                adapters[node] += entry.copies
                params[node] += entry.model_params
            children = below.pop(node, None)
            if children:
                children.reverse()
                own = (own, tuple(children))
            kinds[node] = known.setdefault(own, len(known))
            if statuses[node]:
                shown[node] = 1
        if node:
            parent = parents[node]
            if parent in below:
                below[parent].append((names[node], kinds[node]))
            else:
                # The first that is met is the last child: the subtree of the parent ends where its
                # own does.
                below[parent] = [(names[node], kinds[node])]
                ends[parent] = ends[node]
            adapters[parent] += adapters[node]
            params[parent] += params[node]
            missed[parent] += missed[node]
            shown[parent] |= shown[node]
