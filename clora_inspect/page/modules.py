"""The folded model tree as a list of steps: enter a module, leave it.

A list, because a template that calls itself ends in a RecursionError on a hostile plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from clora.plan import Fate
from clora_inspect.graph.labels import last_name
from clora_inspect.graph.printable import printable
from clora_inspect.graph.tree import parents
from clora_inspect.job.layer_ranges import runs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clora_inspect.graph.placement_graph import PlacementGraph

DEEPEST = 60
"""Modules below this depth stand beside each other: a browser nests some hundred elements."""

GLYPHS = {"wrapped": "●", "excluded": "◌", "unmatched": "○", "not adaptable": "·"}


@dataclass(slots=True)
class Module:
    """A module or a part of one, and the adapters beside it. It stands for all that are alike."""

    anchor: str
    """The `id` in the page: the path, or the path with a number where another element has it."""
    path: str
    numbers: str
    """The path with all numbers of layers in it, where `path` says only how many there are."""
    name: str
    glyph: str
    status: str
    """One of the four statuses of the graph."""
    word: str
    """One of the five fates."""
    by: str | None
    """The entry of `exclude_modules` that names it."""
    class_name: str | None
    count: int
    depth: int
    adapters: list[Mapping[str, Any]] = field(default_factory=list)
    has_children: bool = False
    adapted_below: int = 0
    """Number of adapters in and below it, in the whole model."""

    @property
    def fate(self) -> str:
        """The word for what becomes of it; empty for a container, which says nothing by itself."""
        if self.status == Fate.WRAPPED.word:
            return "adapted"
        return "" if self.has_children and self.word == Fate.NO_PARAMETERS.word else self.word


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a walk through the tree."""

    module: Module | None
    """The module that is entered; None where one is left."""


def steps(
    graph: PlacementGraph, numbers: Mapping[str, Iterable[int]] = MappingProxyType({}), taken: Iterable[str] = ()
) -> list[Step]:
    """Return the walk through all modules of a folded graph.

    Args:
        graph: the graph.
        numbers: folded node -> numbers of the siblings that it stands for.
        taken: the ids of other elements of the page.
    """
    data_of = graph.graph.nodes
    children: dict[str | None, list[str]] = {}
    adapters: dict[str, list[str]] = {}
    for node, parent in parents(graph).items():
        kind = data_of[node]["kind"]
        if kind == "adapter":
            adapters.setdefault(parent or "", []).append(node)
        elif kind != "rank_class":
            # The tree begins with modules: the ranks have a table of their own.
            above = parent if parent is not None and data_of[parent]["kind"] != "rank_class" else None
            children.setdefault(above, []).append(node)
    found: list[Step] = []
    anchors = set(taken)
    entered: list[Module] = []
    pending: list[str | None] = list(reversed(children.get(None, ())))
    while pending:
        name = pending.pop()
        if name is None:
            left = entered.pop()
            if entered:
                entered[-1].adapted_below += left.adapted_below
            found.append(Step(None))
            continue
        module = _module(name, data_of[name], [data_of[each] for each in adapters.get(name, ())], len(entered), anchors)
        module.has_children = name in children
        module.numbers = _with_numbers(module.path, entered[-1] if entered else None, numbers.get(name, ()))
        found.append(Step(module))
        entered.append(module)
        pending += [None, *reversed(children.get(name, ()))]
    return found


def _module(
    name: str, data: Mapping[str, Any], adapters: list[Mapping[str, Any]], depth: int, anchors: set[str]
) -> Module:
    path = name.partition("/")[2] or name
    count = data.get("count", 1)
    return Module(
        anchor=_anchor(path, anchors),
        path=path,
        numbers="",
        name=f"[{data['part']}]" if data["kind"] == "part" else last_name(name),
        glyph=GLYPHS[data["status"]],
        status=data["status"],
        word=_word(data),
        by=data.get("by"),
        class_name=data.get("base_class"),
        count=count,
        depth=min(depth, DEEPEST),
        adapters=adapters,
        adapted_below=sum(each.get("count", 1) for each in adapters),
    )


def _with_numbers(path: str, parent: Module | None, numbers: Iterable[int]) -> str:
    """Return `path` below what `parent` is with all numbers, and `numbers` in braces."""
    if parent is None or not path.startswith(parent.path):
        return path
    suffix = path.removeprefix(parent.path)
    if suffix.startswith(".{") and " of " in suffix:
        runs = (f"{first}..{last}" if last > first else str(first) for first, last in runs_of(numbers))
        suffix = f".{{{','.join(runs)}}}"
    return parent.numbers + suffix


def _word(data: Mapping[str, Any]) -> str:
    # A module's status has no word of its own for the fate of a module without parameters.
    is_bare = data.get("reason") == Fate.NO_PARAMETERS.value
    return Fate.NO_PARAMETERS.word if is_bare else str(data["status"])


def _anchor(path: str, taken: set[str]) -> str:
    """Return an `id` without blanks that no other element has."""
    # Ids of the page's own elements have a colon, and paths of modules none.
    stem = "_".join(printable(path).replace(":", "_").split()) or "_"
    anchor, number = stem, 1
    while anchor in taken:
        number += 1
        anchor = f"{stem}~{number}"
    taken.add(anchor)
    return anchor
