"""The rows of the model tree on the screen: layers that are alike share a row, filters hide rows,
and the user opens and closes them.

A folded row shows the first of its members and stands for all of them. The subtrees of the members
have equal kinds, filter bits and marks, so that the node at some distance from the first node of
one member corresponds to the node at the same distance in another.
"""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import compress, count
from typing import TYPE_CHECKING, NamedTuple

from clora.fused import FUSED
from clora.patterns import canonical_names, matcher, matches
from clora.plan import Fate
from clora_inspect.job.layer_ranges import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.tui.tree.nodes import ModelNodes

LARGEST_UNFOLDING = 2_000
"""Number of rows of a filtered tree after which further rows stay closed: nobody reads a longer
list.
"""

MANY_GROUPS = 4
"""Number of groups of unlike layers above which only the first group is open at the start."""

FOUND, DRIFTED, WRONG = 1, 2, 4
"""Marks of a node, combined with `|`: a finding is about it, it differs from the snapshot, the
finding is an error.
"""

_RANGES = re.compile(r"\{(?:\d+ of )?([0-9.,]+)\}")


class TreeFilter(StrEnum):
    """The kinds of modules that the tree can be limited to."""

    ALL = "all"
    ADAPTED = "adapted"
    MISSED = "missed"
    DRIFTED = "drifted"
    FINDINGS = "findings"


class TreeRow(NamedTuple):
    node: int
    """The node whose content is shown: the first of `members`."""
    members: tuple[int, ...]
    """Sibling nodes that are folded into this row."""
    depth: int
    label: str
    """The text of the row, such as `linear_fc1` or `layers {0..31}`."""
    path: str
    """The path with folded layers, such as `decoder.layers.{0..31}.mlp.linear_fc1`."""
    times: int
    """Number of nodes of the model that this row stands for, rows above it being folded, too."""
    has_children: bool
    is_open: bool
    key: str
    """The path under which `TreeModel` remembers that the row was opened or closed."""


class _Group(NamedTuple):
    label: str
    members: tuple[int, ...]


class TreeModel:
    """The state of the tree: what is open, what the filter keeps, and the rows that follow."""

    def __init__(self, nodes: ModelNodes) -> None:
        """Show all of `nodes`, with the first layers open."""
        self.nodes = nodes
        self.text = ""
        self.only = TreeFilter.ALL
        self.with_empty = False
        """True if modules without parameters are shown, too."""
        self.hits = 0
        """Number of modules that the filter hits; 0 without a filter."""
        self._toggled: set[str] = set()
        """Keys of the rows that the user opened or closed against the default."""
        self._toggled_while_filtered: set[str] = set()
        """Keys of the rows opened or closed in the filtered tree, which has other defaults."""
        self._unfolded: set[str] = set()
        """Paths of the lists of layers or experts whose members each have a row."""
        self._marks = bytearray(len(nodes))
        self._keep = bytearray(nodes.shown)
        """1 for each node that the filter keeps."""
        self._searched: list[str] | None = None
        """For each node the text that a filter searches, in lower case."""
        self._canonical: dict[int, tuple[str, ...]] = {}
        self._rows: list[TreeRow] | None = None
        self._groups: dict[int, list[_Group]] = {}

    @property
    def is_filtered(self) -> bool:
        """True if a filter hides modules; hiding modules without parameters is no filter."""
        return bool(self.text) or self.only is not TreeFilter.ALL

    def rows(self) -> list[TreeRow]:
        """Return the rows from top to bottom."""
        if self._rows is None:
            self._rows = list(self._walk())
        return self._rows

    def copy_state(self, other: TreeModel) -> None:
        """Take over what is open and filtered in `other`, which may show other ranks."""
        self._toggled, self._unfolded = set(other._toggled), set(other._unfolded)
        self.with_empty = other.with_empty
        self.filter(other.text, other.only)

    def toggle(self, row: TreeRow, *, to: bool | None = None) -> None:
        """Open a row (`to=True`), close it (`to=False`), or change it (None)."""
        if row.has_children and (to is None or to is not row.is_open):
            toggled = self._toggled_while_filtered if self.is_filtered else self._toggled
            toggled ^= {row.key}
            self._rows = None

    def unfold(self, row: TreeRow) -> bool:
        """Give each member of a folded row a row of its own, or fold them again.

        Returns:
            False where the row is no layer or expert, which nothing folds.
        """
        parent = self.nodes.parents[row.node]
        if not self.nodes.names[row.node].isdigit():
            return False
        self._unfolded ^= {self.nodes.paths[parent]}
        self._forget()
        return True

    def show_empty(self, *, on: bool) -> None:
        """Show or hide modules without parameters."""
        self.with_empty = on
        self.filter(self.text, self.only)

    def mark(self, found: Iterable[str], drifted: Iterable[str] = (), wrong: Iterable[str] = ()) -> None:
        """Mark the modules that findings, the drift from the snapshot and errors are about.

        Args:
            found: places of findings.
            drifted: places that differ from the snapshot.
            wrong: places of errors; they are marked as findings, too.
        """
        marks = bytearray(len(self.nodes))
        for places, bit in ((found, FOUND), (drifted, DRIFTED), (wrong, FOUND | WRONG)):
            for place in places:
                for node in nodes_near(self.nodes, place):
                    marks[node] |= bit
        self._marks = marks
        self.filter(self.text, self.only)

    def marks_of(self, node: int) -> int:
        """Return the marks of `node` and of everything below it."""
        together = 0
        # A layer has thousands of nodes and at most eight different marks.
        for mark in set(self._marks[node : self.nodes.ends[node]]):
            together |= mark
        return together

    def own_marks(self, node: int) -> int:
        """Return the marks of `node` without what is below it."""
        return self._marks[node]

    def filter(self, text: str, only: TreeFilter = TreeFilter.ALL) -> None:
        """Keep the modules that `text` hits and `only` lets pass, and the modules above them.

        Args:
            text: a part of a path, class or target, or a target pattern; empty for all.
            only: the kind of modules to keep.

        Raises:
            TargetError: the pattern has a brace that is no range.
        """
        hits = self._text_hits(text.strip())
        if only is not TreeFilter.ALL:
            passing = self._passing(only)
            hits = passing if hits is None else _both(hits, passing)
        # Another filter shows other rows: forget what was opened by hand for the last filter.
        if (self.text, self.only) != (text.strip(), only):
            self._toggled_while_filtered = set()
        self.text, self.only = text.strip(), only
        visible = bytearray(b"\x01") * len(self.nodes) if self.with_empty else self.nodes.shown
        if hits is None:
            self.hits = 0
            self._keep = bytearray(visible)
        else:
            hits = _both(hits, visible)
            self.hits = hits.count(1)
            self._keep = self._with_ancestors(hits)
        self._forget()

    def search_ready(self) -> None:
        """Prepare the text that filters search.

        The first filter needs it and would be slow otherwise. May be called from any thread: the
        result is assigned at the end, and nothing that was there before is changed.
        """
        if self._searched is None:
            nodes = self.nodes
            # All nodes of a kind have the same class, and there are few kinds.
            one_of_each = dict(zip(nodes.kinds, count(), strict=False))
            classes = {kind: nodes.class_name(node).lower() for kind, node in one_of_each.items()}
            words = [f"{path.lower()} {classes[kind]}" for path, kind in zip(nodes.paths, nodes.kinds, strict=True)]
            canonical = self._canonical_names()
            for node, names in canonical.items():
                words[node] = " ".join((words[node], *names)).lower()
            self._canonical, self._searched = canonical, words

    def reveal(self, node: int) -> TreeRow | None:
        """Open the rows above `node` and return its row; None where a filter hides it."""
        nodes = self.nodes
        # `level` goes down from the model to `node`, one row at a time.
        level = 0
        while level != node:
            group = next(
                (
                    group
                    for group in self._groups_of(level)
                    for member in group.members
                    if member <= node < nodes.ends[member]
                ),
                None,
            )
            if group is None:
                return None
            member = next(m for m in group.members if m <= node < nodes.ends[m])
            # The row shows the first member: go on with the node that corresponds to `node` there.
            level = group.members[0]
            node += level - member
            if level != node:
                shown = next((row for row in self.rows() if row.node == level), None)
                if shown is None:
                    return None
                # Only a row that is open has rows below it: the next round looks for one of them.
                self.toggle(shown, to=True)
        return next((row for row in self.rows() if row.node == node), None)

    def nodes_of(self, row: TreeRow) -> list[int]:
        """Return the `row.times` nodes that `row` stands for: its members in each folded layer."""
        found = list(row.members)
        shown = {each.node: each for each in self.rows()}
        for node in self.nodes.ancestors(row.node):
            fold_above = shown.get(node)
            if fold_above is not None and len(fold_above.members) > 1:
                # The same distance from each member of the fold leads to the corresponding nodes.
                found = [each + member - node for member in fold_above.members for each in found]
        return found

    def _forget(self) -> None:
        self._rows = None
        self._groups = {}

    def parts_of(self, row: TreeRow, limit: int) -> list[TreeRow]:
        """Return rows for the modules below `row` that are no containers, at most `limit`.

        The filter applies; it does not matter which rows are open.
        """
        found: list[TreeRow] = []
        for below in self._walk(row, all_open=True):
            if self.nodes.fates[below.node] is not Fate.NO_PARAMETERS:
                found.append(below)
                if len(found) == limit:
                    break
        return found

    def children_of(self, row: TreeRow) -> list[TreeRow]:
        """Return the rows directly below `row`, even when it is closed."""
        return list(self._walk(row, depth_limit=row.depth + 1))

    def _walk(
        self, start: TreeRow | None = None, *, all_open: bool = False, depth_limit: int | None = None
    ) -> Iterator[TreeRow]:
        """Yield the rows below `start` (below the model when None) from top to bottom."""
        toggled = self._toggled_while_filtered if self.is_filtered else self._toggled
        keep, ends, paths = self._keep, self.nodes.ends, self.nodes.paths
        top, depth, above, times = (start.node, start.depth + 1, start.path, start.times) if start else (0, 0, "", 1)
        # A stack and not recursion: each row would pass through as many generators as it is deep.
        stack = [(group, depth, above, times, number) for number, group in enumerate(self._groups_of(top))][::-1]
        made = 0
        while stack:
            group, depth, above, times, number = stack.pop()
            node = group.members[0]
            times *= len(group.members)
            # The members of a row are alike: what holds for the first holds for all of them.
            has_children = 1 in keep[node + 1 : ends[node]]
            key = paths[node]
            # With `all_open` fused linears stay closed: their parts are no modules.
            is_open = has_children and not self._has_parts(node)
            if not all_open and has_children:
                by_default = (
                    made < LARGEST_UNFOLDING if self.is_filtered else self._opens_by_default(group, depth, number)
                )
                is_open = by_default != (key in toggled)
            # The label `layers {0..31}` stands for `layers.{0..31}` in a path.
            name = group.label.replace(" ", ".", 1)
            path = f"{above}{name}" if not above or name.startswith("[") else f"{above}.{name}"
            yield TreeRow(node, group.members, depth, group.label, path, times, has_children, is_open, key)
            made += 1
            if is_open and depth != depth_limit:
                stack += [(child, depth + 1, path, times, place) for place, child in enumerate(self._groups_of(node))][
                    ::-1
                ]

    def _opens_by_default(self, group: _Group, depth: int, number: int) -> bool:
        """Return whether a row of the unfiltered tree is open until the user closes it.

        Layers are, or the first group of them where there are many groups. Experts and fused
        linears are not.
        """
        node = group.members[0]
        names, parents = self.nodes.names, self.nodes.parents
        if names[node].isdigit():
            # Experts are numbered as layers are, in a list of another name.
            is_layer = names[parents[node]] == "layers"
            return is_layer and (number == 0 or len(self._groups_of(parents[parents[node]])) <= MANY_GROUPS)
        # The depths are those of decoder, layer, attention or MLP, and linear.
        return depth < 4 and not self._has_parts(node)

    def _has_parts(self, node: int) -> bool:
        first = node + 1
        return first < self.nodes.ends[node] and self.nodes.names[first].startswith("[")

    def _groups_of(self, node: int) -> list[_Group]:
        """Return the groups of nodes that have a row below `node`.

        A list of layers or experts has no row: the groups of its members stand in its place.
        """
        made = self._groups.get(node)
        if made is None:
            made = []
            for child in self.nodes.children(node):
                if self._keep[child]:
                    numbered = self._numbered(child)
                    made += numbered or [_Group(self.nodes.names[child], (child,))]
            self._groups[node] = made
        return made

    def _numbered(self, node: int) -> list[_Group]:
        """Return the groups of a list of layers or experts; empty for any other node."""
        nodes = self.nodes
        names = nodes.names
        first = node + 1
        if first >= nodes.ends[node] or not names[first].isdigit():
            return []
        members = [child for child in nodes.children(node) if self._keep[child]]
        if not all(names[child].isdigit() for child in members):
            return []
        if nodes.paths[node] in self._unfolded:
            return [_Group(f"{names[node]} {names[child]}", (child,)) for child in members]
        alike: dict[object, list[int]] = {}
        for child in members:
            end = nodes.ends[child]
            # A layer with a finding, or one that a filter hits elsewhere, has a row of its own.
            look = (nodes.kinds[child], bytes(self._keep[child:end]), bytes(self._marks[child:end]))
            alike.setdefault(look, []).append(child)
        return [
            _Group(f"{names[node]} {fold(int(names[child]) for child in group)}", tuple(group))
            for group in alike.values()
        ]

    def _text_hits(self, text: str) -> bytearray | None:
        if not text:
            return None
        if any(character in text for character in "*{"):
            hits = self._pattern_hits(text)
            # A pattern selects modules, and the user wants to see what is inside them. A part of a
            # path hits what is inside by itself, because paths begin with those of their parents.
            node = hits.find(1)
            while node >= 0:
                end = self.nodes.ends[node]
                hits[node:end] = b"\x01" * (end - node)
                node = hits.find(1, end)
            return hits
        self.search_ready()
        text = text.lower()
        return bytearray([text in words for words in self._searched or ()])

    def _pattern_hits(self, pattern: str) -> bytearray:
        """Return a 1 for each node that a pattern selects.

        The literal pieces of the pattern are searched first, which is ten times as fast as matching
        the pattern on each path.
        """
        selects = matcher(pattern)
        self.search_ready()
        literals = re.split(r"\*|\{[^}]*\}", pattern)
        pieces, tail = [piece.lower() for piece in literals if piece], literals[-1]
        words = self._searched or []
        candidates: Iterable[int] = range(len(self.nodes))
        # The longest piece is usually the rarest, and leaves the fewest candidates.
        for piece in sorted(pieces, key=len, reverse=True):
            candidates = [node for node in candidates if piece in words[node]]
        hits = bytearray(len(self.nodes))
        paths, canonical = self.nodes.paths, self._canonical
        for node in [
            node
            for node in candidates
            if (paths[node].endswith(tail) and selects(paths[node]))
            or (node in canonical and any(map(selects, canonical[node])))
        ]:
            hits[node] = 1
        return hits

    def _canonical_names(self) -> dict[int, tuple[str, ...]]:
        """Return the names by which targets select canonical parts, by node.

        The node is the part's; where a fused linear has no nodes for its parts, it is the linear's.
        """
        nodes = self.nodes
        paths, parents, ends = nodes.paths, nodes.parents, nodes.ends
        found: dict[int, tuple[str, ...]] = {}
        for node, name in enumerate(nodes.names):
            if name[:1] == "[":
                module = parents[node]
                fused = FUSED.get(nodes.names[module], {})
                part = fused.get(name[1:-1])
                if part is not None:
                    found[node] = (paths[module][: -len(nodes.names[module])] + part,)
            elif name in FUSED and ends[node] == node + 1:
                found[node] = tuple(canonical_names(paths[node]).values())
        return found

    def _passing(self, only: TreeFilter) -> bytearray:
        fates = self.nodes.fates
        match only:
            case TreeFilter.ADAPTED:
                return bytearray([fate is Fate.WRAPPED for fate in fates])
            case TreeFilter.MISSED:
                # A wrapped module that misses a linear is a fused one with adapters for some parts.
                could_be = (Fate.UNMATCHED, Fate.EXCLUDED)
                return bytearray(
                    [
                        fate in could_be or (fate is Fate.WRAPPED and unadapted > 0)
                        for fate, unadapted in zip(fates, self.nodes.unadapted, strict=True)
                    ]
                )
            case TreeFilter.DRIFTED:
                return bytearray([mark & DRIFTED and 1 for mark in self._marks])
            case _:
                return bytearray([mark & FOUND for mark in self._marks])

    def _with_ancestors(self, hits: bytearray) -> bytearray:
        keep = bytearray(hits)
        parents = self.nodes.parents
        above = set(compress(parents, hits))
        while above:
            for node in above:
                keep[node] = 1
            above = {parents[node] for node in above if node}
        return keep


def _both(one: bytearray, other: bytearray) -> bytearray:
    """Return a 1 where both have one."""
    # `&` of two large integers is fifty times as fast as a loop over the bytes.
    return bytearray((int.from_bytes(one) & int.from_bytes(other)).to_bytes(len(one)))


def nodes_at(nodes: ModelNodes, place: str) -> list[int]:
    """Return the nodes at `place`: a path, a path with folded layers, or a pattern.

    A canonical part without a node of its own gives the node of its module.
    """
    if "*" in place:
        return [node for node, path in enumerate(nodes.paths) if matches(place, path)]
    found = _RANGES.search(place)
    if found is None:
        node = nodes.index.get(place)
        if node is None and place.endswith("]"):
            node = nodes.index.get(place.rpartition("[")[0])
        return [] if node is None else [node]
    head, tail = place[: found.start()], place[found.end() :]
    return [node for number in _numbers(found[1]) for node in nodes_at(nodes, f"{head}{number}{tail}")]


def nodes_near(nodes: ModelNodes, place: str) -> list[int]:
    """Return the nodes at `place`, or the nearest module above it that exists."""
    found = nodes_at(nodes, place)
    while not found and place:
        place = parent_of(place)
        found = nodes_at(nodes, place) if place else []
    return found


def parent_of(place: str) -> str:
    """Return the path of the module above a module or part; empty for the model.

    A list of layers is skipped, as the tree has no row for it. Dots inside braces are ranges.
    """
    if place.endswith("]"):
        return place.rpartition("[")[0]
    depth = 0
    for at in range(len(place) - 1, -1, -1):
        depth += (place[at] == "}") - (place[at] == "{")
        if place[at] == "." and not depth:
            stem, last = place[:at], place[at + 1 :]
            return parent_of(stem) if last[:1].isdigit() or last[:1] == "{" else stem
    return ""


def _numbers(ranges: str) -> Iterator[int]:
    """Yield the numbers of `0..2,58..60`, or of `3..47..4` with a step."""
    for run in ranges.split(","):
        edges = [int(edge) for edge in run.split("..") if edge]
        step = edges[2] if len(edges) == 3 else 1
        if edges and step > 0:
            yield from range(edges[0], edges[min(1, len(edges) - 1)] + 1, step)
