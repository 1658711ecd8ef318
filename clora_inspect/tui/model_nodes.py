"""The module tree of a plan as flat arrays, parents before children: 120,000 modules are an ordinary size. Pure data.

Paths are the whole model's: layer numbers are global. A fused linear that is adapted has its canonical parts as children,
`...linear_fc1[up]`. The subtree of node `i` is `range(i, ends[i])`, so that a filter is a slice of bytes and not a walk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from clora.plan import Placement, Reason, Skip
from clora_inspect.module_path import global_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clora_inspect.jobplan import JobPlan


class Status(StrEnum):
    """What becomes of a module. The values are the words on the screen."""

    ADAPTED = "adapted"
    PARTLY = "partly adapted"
    MISSED = "not targeted"
    EXCLUDED = "excluded"
    NO_FORM = "no LoRA form"
    CONTAINER = ""


GLYPHS = {
    Status.ADAPTED: "●",
    Status.PARTLY: "◐",
    Status.MISSED: "○",
    Status.EXCLUDED: "⊘",
    Status.NO_FORM: "·",
    Status.CONTAINER: "",
}

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
"""The order in which a token meets the modules; the planner lists what it adapts and what it leaves apart."""


@dataclass(slots=True)
class _Found:
    """A module while the tree is made."""

    name: str
    children: list[_Found] = field(default_factory=list)
    entry: Placement | Skip | None = None
    classes: tuple[int, ...] = ()
    """Rank classes that hold it."""
    placed: int = 0
    """Its canonical parts that are adapted; those that are not are its other children."""


@dataclass(slots=True)
class ModelNodes:
    """The arrays. Index 0 is the model itself."""

    paths: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    entries: list[Placement | Skip | None] = field(default_factory=list)
    classes: list[tuple[int, ...]] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    adapters: list[int] = field(default_factory=list)
    """Placements of the subtree, each counted as often as it stands in the model."""
    params: list[int] = field(default_factory=list)
    """Their parameters in the whole model."""
    missed: list[int] = field(default_factory=list)
    """Canonical linears of the subtree that could be adapted and are not."""
    kinds: list[int] = field(default_factory=list)
    """Equal for nodes whose subtrees differ in nothing but the number they go by."""
    shown: bytearray = field(default_factory=bytearray)
    """1 for a node that holds parameters, or has one below it that does: the others are hidden until asked for."""
    index: dict[str, int] = field(default_factory=dict)
    """Path -> node."""

    def __len__(self) -> int:
        return len(self.paths)

    def children(self, node: int) -> Iterable[int]:
        """The children of `node`, in order."""
        child, end = node + 1, self.ends[node]
        while child < end:
            yield child
            child = self.ends[child]

    def placements(self, node: int) -> list[Placement]:
        """The adapters at `node` and below, in order."""
        return [entry for entry in self.entries[node : self.ends[node]] if isinstance(entry, Placement)]

    def class_name(self, node: int) -> str:
        """The class of the module; of the fused linear for a canonical part; empty for the model itself."""
        entry = self.entries[node]
        if isinstance(entry, Placement):
            return entry.base_class
        if isinstance(entry, Skip):
            return entry.class_name
        below = node + 1
        return self.class_name(below) if below < self.ends[node] and self.names[below].startswith("[") else ""

    def ancestors(self, node: int) -> list[int]:
        """From the model down to the parent of `node`."""
        found: list[int] = []
        while node:
            node = self.parents[node]
            found.append(node)
        return found[::-1]


def model_nodes(plan: JobPlan, classes: Sequence[int] | None = None) -> ModelNodes:
    """The modules that the rank classes `classes` hold (all of them when None), as one tree."""
    root = _Found("")
    by_path: dict[str, _Found] = {"": root}
    for number in range(len(plan.rank_classes)) if classes is None else classes:
        rank_class = plan.rank_classes[number]
        own = (number,)
        entries: tuple[Placement | Skip, ...] = (*rank_class.skipped, *rank_class.placements)
        for entry in entries:
            module, layer = entry.module, entry.global_layer
            if layer is not None and module.startswith("decoder.layers."):
                _, _, rest = module[15:].partition(".")
                path = f"decoder.layers.{layer}.{rest}" if rest else f"decoder.layers.{layer}"
            else:
                path = global_path(module, layer)
            found = by_path.get(path) or _new(path, by_path)
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
    return _flattened(root)


def _new(path: str, by_path: dict[str, _Found]) -> _Found:
    """The module at `path`, hung below its parent, which is made when the plan did not name it yet."""
    stem, _, name = path.rpartition(".")
    parent = by_path.get(stem) or _new(stem, by_path)
    made = by_path[path] = _Found(name)
    parent.children.append(made)
    return made


def _flattened(root: _Found) -> ModelNodes:
    nodes = ModelNodes()
    stack: list[tuple[_Found, int]] = [(root, 0)]
    while stack:
        found, parent = stack.pop()
        here = len(nodes.paths)
        above = nodes.paths[parent] if here else ""
        name = found.name
        path = f"{above}{name}" if not above or name[0:1] == "[" else f"{above}.{name}"
        nodes.paths.append(path)
        nodes.names.append(name)
        nodes.parents.append(parent)
        nodes.entries.append(found.entry)
        nodes.classes.append(found.classes)
        nodes.statuses.append(_status(found))
        nodes.index[path] = here
        if found.children:
            stack.extend((child, here) for child in reversed(_ordered(found.children)))
    _sum_up(nodes)
    return nodes


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


def _sum_up(nodes: ModelNodes) -> None:
    """Ends, sums, kinds and what is shown: one pass from the last node to the first, children before parents."""
    size = len(nodes.paths)
    ends = list(range(1, size + 1))
    adapters, params, missed, kinds = [0] * size, [0] * size, [0] * size, [0] * size
    shown = bytearray(size)
    below: dict[int, list[tuple[str, int]]] = {}
    known: dict[object, int] = {}
    names, parents, entries, statuses = nodes.names, nodes.parents, nodes.entries, nodes.statuses
    for node in range(size - 1, -1, -1):
        entry = entries[node]
        own: object = None
        if isinstance(entry, Skip):
            own = entry.class_name, entry.reason, entry.by, entry.params, entry.copies
            missed[node] += entry.linears * entry.copies
        elif entry is not None:
            own = _facts(entry)
            adapters[node] += entry.copies
            params[node] += entry.model_params
        children = below.pop(node, None)
        if children:
            children.reverse()
            own = (own, tuple(children))
        kind = kinds[node] = known.setdefault(own, len(known))
        if statuses[node]:
            shown[node] = 1
        if node:
            parent = parents[node]
            if parent in below:
                below[parent].append((names[node], kind))
            else:
                # The first that is met is the last child: the subtree of the parent ends where its own does.
                below[parent] = [(names[node], kind)]
                ends[parent] = ends[node]
            adapters[parent] += adapters[node]
            params[parent] += params[node]
            missed[parent] += missed[node]
            shown[parent] |= shown[node]
    nodes.ends, nodes.kinds, nodes.shown = ends, kinds, shown
    nodes.adapters, nodes.params, nodes.missed = adapters, params, missed


def _facts(placement: Placement) -> object:
    """What makes two adapters look alike on the screen."""
    return (
        placement.base_class,
        placement.alpha,
        placement.a_shape,
        placement.b_shape,
        placement.a_global_shape,
        placement.b_global_shape,
        placement.a_axes,
        placement.target,
        placement.experts,
        placement.copies,
    )
