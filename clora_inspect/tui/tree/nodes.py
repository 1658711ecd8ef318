"""The module tree of a plan as flat arrays, parents before children.

A model often has 120,000 modules, too many for an object each. The subtree of node `i` is
`range(i, ends[i])`, so that a filter works on slices of bytes and need not walk a tree.

Paths are those of the whole model: layer numbers are global. A fused linear that is adapted has its
canonical parts as children, `...linear_fc1[up]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clora.plan import Fate, Placement, Skip

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class ModelNodes:
    """Arrays with one entry per node. Index 0 is the model itself."""

    paths: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """Index of the node after the last one of the subtree."""
    entries: list[Placement | Skip | None] = field(default_factory=list)
    classes: list[tuple[int, ...]] = field(default_factory=list)
    """Numbers of the rank classes that hold the module."""
    fates: list[Fate] = field(default_factory=list)
    """`NO_PARAMETERS` for the model itself, and for modules that only paths of children name."""
    adapters: list[int] = field(default_factory=list)
    """Adapters of the subtree, each counted as often as it stands in the model."""
    params: list[int] = field(default_factory=list)
    """Adapter parameters of the subtree in the whole model."""
    unadapted: list[int] = field(default_factory=list)
    """Canonical linears of the subtree that could be adapted and are not."""
    kinds: list[int] = field(default_factory=list)
    """Equal numbers for nodes whose subtrees look the same on the screen."""
    shown: bytearray = field(default_factory=bytearray)
    """1 for a node with parameters in its subtree; the others are hidden until asked for."""
    _index: dict[str, int] = field(default_factory=dict)

    @property
    def index(self) -> dict[str, int]:
        """Path -> node. Built on first use: the first screen does not need it."""
        if not self._index:
            self._index = dict(zip(self.paths, range(len(self.paths)), strict=True))
        return self._index

    def __len__(self) -> int:
        return len(self.paths)

    def is_partly_wrapped(self, node: int) -> bool:
        """True if a canonical part of a wrapped module has no adapter."""
        return self.fates[node] is Fate.WRAPPED and self.unadapted[node] > 0

    def children(self, node: int) -> Iterable[int]:
        """Yield the children of `node` in order."""
        child, end = node + 1, self.ends[node]
        while child < end:
            yield child
            child = self.ends[child]

    def placements(self, node: int) -> list[Placement]:
        """Return the adapters of the subtree of `node` in order."""
        return [entry for entry in self.entries[node : self.ends[node]] if isinstance(entry, Placement)]

    def class_name(self, node: int) -> str:
        """Return the class of a module, and of the fused linear for a canonical part.

        Empty for the model itself and for modules that the plan does not list.
        """
        entry = self.entries[node]
        if isinstance(entry, Placement):
            return entry.base_class
        if isinstance(entry, Skip):
            return entry.class_name
        # A fused linear with an adapted part has no entry itself: its parts have.
        below = node + 1
        return self.class_name(below) if below < self.ends[node] and self.names[below].startswith("[") else ""

    def ancestors(self, node: int) -> list[int]:
        """Return the nodes from the model down to the parent of `node`."""
        found: list[int] = []
        while node:
            node = self.parents[node]
            found.append(node)
        return found[::-1]
