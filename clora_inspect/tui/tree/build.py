"""Build the module tree of a plan. Layers that are alike are built once and copied for every layer.

A model of 120,000 modules has only a few kinds of layers, and layers of one kind differ only in
their number. Copying slices of arrays instead of building each layer keeps the first screen fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from clora.patterns import MLA_TARGETS
from clora.plan import Fate, Placement, Skip
from clora_inspect.job.module_path import global_path
from clora_inspect.tui.tree.nodes import ModelNodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.job.plan import JobPlan

    Entry = Placement | Skip

LAYERS = "decoder.layers"

_IN_ORDER = (
    "embedding",
    "decoder",
    "mtp",
    "input_layernorm",
    "self_attention",
    *MLA_TARGETS,
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
# The order in which a token passes the modules. The plan cannot give it: it lists adapters and
# unadapted modules separately.
_READING_ORDER: dict[str, float] = {name: number for number, name in enumerate(_IN_ORDER)}
# Latent attention normalises the outputs of its down projections.
_READING_ORDER["q_layernorm"] = _READING_ORDER["linear_q_down_proj"] + 0.5
_READING_ORDER["kv_layernorm"] = _READING_ORDER["linear_kv_down_proj"] + 0.5

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
"""The fields that the screen shows. Two layers are of one kind if their entries agree in them."""


class _Run(NamedTuple):
    """Entries of one layer that follow each other in the plan of a rank class."""

    number: int
    """The number of the rank class."""
    head: str
    """The layer's path inside its model chunk, such as `decoder.layers.3`."""
    entries: list[Entry]


@dataclass(slots=True)
class _Module:
    """A module while the tree is built."""

    name: str
    children: list[_Module] = field(default_factory=list)
    entry: Entry | None = None
    at: int = -1
    """Index of `entry` among the entries of the layer; -1 for none."""
    classes: tuple[int, ...] = ()
    """Numbers of the rank classes that hold the module."""
    has_adapted_part: bool = False
    layer: _Layer | None = None
    """The content, for a layer that was built before; it has no `children` then."""


@dataclass(slots=True)
class _Kind:
    """The tree that all layers of a kind share.

    Its paths begin at the layer. Its rank classes are indices into `_Layer.numbers`.
    """

    nodes: ModelNodes
    order: list[int]
    """For each node, the index of its entry among the entries of the layer; -1 for none."""


class _Layer(NamedTuple):
    """One layer: its kind, and what differs from other layers of the kind."""

    kind: _Kind
    entries: list[Entry | None]
    """The layer's entries in the order of the plan, then None, which index -1 finds."""
    numbers: tuple[int, ...]
    """Numbers of the rank classes that hold the layer."""


def model_nodes(plan: JobPlan, classes: Sequence[int] | None = None) -> ModelNodes:
    """Build one tree of the modules that the rank classes `classes` hold (all when None)."""
    builder = _TreeBuilder()
    for number in range(len(plan.rank_classes)) if classes is None else classes:
        rank_class = plan.rank_classes[number]
        both: tuple[tuple[Entry, ...], ...] = (rank_class.skipped, rank_class.placements)
        for entries in both:
            for layer, same in groupby(entries, attrgetter("global_layer")):
                builder.add_run(number, layer, list(same))
    return builder.nodes()


class _TreeBuilder:
    def __init__(self) -> None:
        self._root = _Module("")
        self._by_path = {"": self._root}
        self._runs: dict[int, list[_Run]] = {}
        """Global number of a layer -> its entries."""
        self._kinds: dict[object, list[tuple[object, _Kind]]] = {}
        """Paths inside of a layer -> the kinds with those paths, each with its facts."""
        self._kind_numbers: dict[object, int] = {}
        """Content of a subtree -> its number in `ModelNodes.kinds`."""

    def add_run(self, number: int, layer: int | None, entries: list[Entry]) -> None:
        """Add entries that follow each other in the plan of a rank class.

        Args:
            number: the rank class.
            layer: the global number of the layer that all of them stand in; None for no layer.
            entries: the adapters or unadapted modules.
        """
        head = _head_of(entries) if layer is not None else None
        if layer is None or head is None:
            for entry in entries:
                _add(self._by_path, global_path(entry.module, layer), entry, number)
            return
        # The list of layers gets its place among the modules now; `nodes` adds the layers later.
        if LAYERS not in self._by_path:
            _new(LAYERS, self._by_path)
        self._runs.setdefault(layer, []).append(_Run(number, head, entries))

    def nodes(self) -> ModelNodes:
        """Build the tree of everything that was added."""
        for layer, runs in self._runs.items():
            path = f"{LAYERS}.{layer}"
            if path in self._by_path:
                # An entry of this layer already has a node, so the layer is no copy of another.
                for number, _, entries in runs:
                    for entry in entries:
                        _add(self._by_path, global_path(entry.module, layer), entry, number)
            else:
                _new(path, self._by_path).layer = self._layer(runs)
        return _flattened(self._root, self._kind_numbers)[0]

    def _layer(self, runs: list[_Run]) -> _Layer:
        numbers = tuple(dict.fromkeys(run.number for run in runs))
        places = tuple(
            # Indices and not numbers: equal layers of two pipeline stages must have equal keys.
            (numbers.index(number), tuple([entry.module[len(head) :] for entry in entries]))
            for number, head, entries in runs
        )
        facts = [
            list(map(_placement_facts if isinstance(entries[0], Placement) else _skip_facts, entries))
            for _, _, entries in runs
        ]
        # Facts are compared and not hashed. If they differ, the first few entries show it, and only
        # a few kinds have the same paths; hashing would read all entries every time.
        alike = self._kinds.setdefault(places, [])
        kind = next((each for known, each in alike if known == facts), None)
        if kind is None:
            kind = _kind_of(runs, numbers, self._kind_numbers)
            alike.append((facts, kind))
        return _Layer(kind, [*(entry for run in runs for entry in run.entries), None], numbers)


def _head_of(entries: list[Entry]) -> str | None:
    """Return the path, inside its chunk, of the layer that all entries stand in; None for none."""
    first = entries[0].module
    if not first.startswith(f"{LAYERS}."):
        return None
    local, _, _ = first[len(LAYERS) + 1 :].partition(".")
    head = f"{LAYERS}.{local}"
    end = len(head) + 1
    # Entries of one global layer may come from two chunks, whose layers have different numbers.
    return head if {entry.module[:end] for entry in entries} <= {head, f"{head}."} else None


def _kind_of(runs: list[_Run], numbers: tuple[int, ...], kind_numbers: dict[object, int]) -> _Kind:
    root = _Module("")
    by_path = {"": root}
    at = 0
    for number, head, entries in runs:
        for entry in entries:
            _add(by_path, entry.module[len(head) + 1 :], entry, numbers.index(number)).at = at
            at += 1
    return _Kind(*_flattened(root, kind_numbers))


def _add(by_path: dict[str, _Module], path: str, entry: Entry, number: int) -> _Module:
    """Put an entry of the rank class `number` into the tree and return its module or part."""
    module = by_path.get(path) or _new(path, by_path)
    own = (number,)
    if entry.part:
        # The fused linear has no entry of its own in the plan: its parts place it in the tree.
        part = f"{path}[{entry.part}]"
        module.classes = module.classes or own
        parent, module = module, by_path.get(part) or _Module(f"[{entry.part}]")
        if part not in by_path:
            by_path[part] = module
            parent.children.append(module)
            parent.has_adapted_part |= isinstance(entry, Placement)
    module.entry = entry
    if number not in module.classes:
        module.classes = (*module.classes, number) if module.classes else own
    return module


def _new(path: str, by_path: dict[str, _Module]) -> _Module:
    """Add a module at `path`, and its parents where the plan did not name them yet."""
    stem, _, name = path.rpartition(".")
    parent = by_path.get(stem) or _new(stem, by_path)
    made = by_path[path] = _Module(name)
    parent.children.append(made)
    return made


def _flattened(root: _Module, kind_numbers: dict[object, int]) -> tuple[ModelNodes, list[int]]:
    """Return the arrays of a tree, and for each node the index of its entry in the layer."""
    nodes = ModelNodes()
    order: list[int] = []
    # Nodes that are not inside a copied layer: the sums of the others are copied with the layer.
    spine: list[int] = []
    stack: list[tuple[_Module, int]] = [(root, 0)]
    while stack:
        module, parent = stack.pop()
        here = len(nodes.paths)
        spine.append(here)
        above = nodes.paths[parent] if here else ""
        path = f"{above}{module.name}" if not above or module.name[0:1] == "[" else f"{above}.{module.name}"
        if module.layer is not None:
            _write_layer(nodes, module.layer, module.name, parent, path)
            continue
        nodes.paths.append(path)
        nodes.names.append(module.name)
        nodes.parents.append(parent)
        nodes.ends.append(here + 1)
        nodes.entries.append(module.entry)
        nodes.classes.append(module.classes)
        nodes.fates.append(_fate(module))
        for sums in (nodes.adapters, nodes.params, nodes.unadapted):
            sums.append(0)
        # Unknown until all children are known: `_sum_up` fills it in.
        nodes.kinds.append(-1)
        nodes.shown.append(0)
        order.append(module.at)
        if module.children:
            stack.extend((child, here) for child in reversed(_ordered(module.children)))
    _sum_up(nodes, spine, kind_numbers)
    return nodes, order


def _write_layer(nodes: ModelNodes, layer: _Layer, name: str, parent: int, path: str) -> None:
    """Append a copy of the tree of the layer's kind, with the numbers and entries of this layer."""
    same, order = layer.kind.nodes, layer.kind.order
    here = len(nodes.paths)
    inside = f"{path}."
    nodes.paths.append(path)
    nodes.paths += [inside + rest for rest in same.paths[1:]]
    nodes.names.append(name)
    nodes.names += same.names[1:]
    nodes.parents.append(parent)
    nodes.parents += [here + each for each in same.parents[1:]]
    nodes.ends += [here + each for each in same.ends]
    entries = layer.entries
    nodes.entries += [entries[number] for number in order]
    # Nodes of a layer have few different sets of rank classes: each set is translated once.
    held = {positions: tuple(layer.numbers[each] for each in positions) for positions in set(same.classes)}
    nodes.classes += [held[positions] for positions in same.classes]
    nodes.fates += same.fates
    nodes.adapters += same.adapters
    nodes.params += same.params
    nodes.unadapted += same.unadapted
    nodes.kinds += same.kinds
    nodes.shown += same.shown


def _fate(module: _Module) -> Fate:
    if isinstance(module.entry, Placement) or module.has_adapted_part:
        return Fate.WRAPPED
    return module.entry.reason if isinstance(module.entry, Skip) else Fate.NO_PARAMETERS


def _ordered(children: list[_Module]) -> list[_Module]:
    """Sort children: numbers by value, known names in reading order.

    An unknown name stays behind the name that it follows in the plan.
    """
    if len(children) < 2 or children[0].name[0:1] == "[":
        return _parts_in_order(children)
    if all(child.name.isdigit() for child in children):
        return sorted(children, key=lambda child: int(child.name))
    place: float = -1
    keys = []
    for number, child in enumerate(children):
        place = _READING_ORDER.get(child.name, place)
        keys.append((place, number))
    return [children[number] for _, number in sorted(keys)]


def _parts_in_order(children: list[_Module]) -> list[_Module]:
    order = ["[q]", "[k]", "[v]", "[gate]", "[up]"]
    return sorted(children, key=lambda child: order.index(child.name) if child.name in order else len(order))


def _sum_up(nodes: ModelNodes, spine: list[int], kind_numbers: dict[object, int]) -> None:
    """Fill in `ends`, sums, `kinds` and `shown` in one pass from the last node to the first.

    Children come after their parents in the arrays, so this pass meets them first.

    Args:
        nodes: the arrays; copied layers have these values already.
        spine: the nodes that are not inside of a copied layer.
        kind_numbers: content of a subtree -> number of its kind; new kinds are added.
    """
    names, parents, entries, fates = nodes.names, nodes.parents, nodes.entries, nodes.fates
    ends, kinds, shown = nodes.ends, nodes.kinds, nodes.shown
    adapters, params, unadapted = nodes.adapters, nodes.params, nodes.unadapted
    # Node -> name and kind of each of its children, the last child first.
    below: dict[int, list[tuple[str, int]]] = {}
    for node in reversed(spine):
        if kinds[node] < 0:
            entry = entries[node]
            own: object = None
            if isinstance(entry, Skip):
                own = _skip_facts(entry)
                unadapted[node] += entry.linears * entry.copies
            elif entry is not None:
                own = _placement_facts(entry)
                adapters[node] += entry.copies
                params[node] += entry.model_params
            children = below.pop(node, None)
            if children:
                children.reverse()
                own = (own, tuple(children))
            # Children stand in the content with the number of their kind, not as nested tuples:
            # hashing those would read the whole subtree again at each level.
            kinds[node] = kind_numbers.setdefault(own, len(kind_numbers))
            if fates[node] is not Fate.NO_PARAMETERS:
                shown[node] = 1
        if node:
            parent = parents[node]
            if parent in below:
                below[parent].append((names[node], kinds[node]))
            else:
                # The loop meets the last child first: the parent's subtree ends with it.
                below[parent] = [(names[node], kinds[node])]
                ends[parent] = ends[node]
            adapters[parent] += adapters[node]
            params[parent] += params[node]
            unadapted[parent] += unadapted[node]
            shown[parent] |= shown[node]
