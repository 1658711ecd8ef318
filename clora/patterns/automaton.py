"""Match a path with many patterns at once, in time linear in the path.

The patterns form a tree of characters, in which patterns that begin alike share nodes. A path is
read from left to right, and the set of nodes that fit what was read so far moves with it. Nothing
is read twice, so that no pattern can make it go back. The sets are remembered: paths of one model
are alike, and most steps are one look-up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.patterns.grammar import ANY, STAR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora.patterns.grammar import Token

_DEAD = 0
"""The set of no nodes, from which no character leads out."""

_ENTRIES = 2_000_000
"""Numbers in all remembered sets. Beyond that they are forgotten and computed again."""

_PREFIXES = 200_000
"""Number of remembered prefixes."""


class Automaton:
    """Reads paths and tells which patterns cover them."""

    def __init__(self, patterns: Sequence[Sequence[Token]]) -> None:
        self.steps = 0
        """Cost of the matching so far: one for each character that was looked up, and one for
        each node of a set that was computed.
        """
        self._characters: list[dict[str, int]] = []
        """Node -> character -> next node."""
        self._stars: dict[int, int] = {}
        """Node -> the node behind a `*` that follows it."""
        self._any: dict[int, int] = {}
        """Node -> the node behind any one character."""
        self._is_star: list[bool] = []
        """Node -> True if any character leads back to it."""
        self._ranges: dict[int, dict[tuple[int, int], int]] = {}
        """Node -> first and last number of each range that follows it -> the node behind it."""
        self._largest: dict[int, int] = {}
        """Node -> the last number of all ranges that follow it."""
        self._accepts: dict[int, list[int]] = {}
        """Node -> patterns that end there."""
        self._begun: list[tuple[int, int]] = []
        """Node and the value of the digits that were read behind it, for its ranges. In a set of
        nodes, the entry -1 stands for the first of these, -2 for the second, and so on.
        """
        self._begun_index: dict[tuple[int, int], int] = {}
        self._new_node()
        for number, tokens in enumerate(patterns):
            node = 0
            for token in tokens:
                node = self._add(node, token)
            self._accepts.setdefault(node, []).append(number)
        self._forget()

    def accepted(self, path: str) -> tuple[int, ...]:
        """Return the numbers of the patterns that cover all of `path`, in order."""
        cut = path.rfind(".") + 1
        # Modules beside each other share everything up to the last dot.
        head = path[:cut]
        state = self._prefixes.get(head)
        if state is None:
            if len(self._prefixes) >= _PREFIXES:
                self._prefixes.clear()
            state = self._prefixes[head] = self._read(self._start, head)
        state = self._read(state, path[cut:])
        found = self._accepted.get(state)
        if found is None:
            found = self._accepted[state] = self._accepted_by(self._sets[state])
        return found

    def _add(self, node: int, token: Token) -> int:
        """Return the node behind `token` after `node`; make it if there is none."""
        if token is STAR:
            if node not in self._stars:
                self._stars[node] = self._new_node(is_star=True)
            return self._stars[node]
        if isinstance(token, tuple):
            ranges = self._ranges.setdefault(node, {})
            if token not in ranges:
                ranges[token] = self._new_node()
            self._largest[node] = max(self._largest.get(node, 0), token[1])
            return ranges[token]
        if token is ANY:
            if node not in self._any:
                self._any[node] = self._new_node()
            return self._any[node]
        for character in str(token):
            after = self._characters[node].get(character)
            if after is None:
                after = self._characters[node][character] = self._new_node()
            node = after
        return node

    def _new_node(self, *, is_star: bool = False) -> int:
        self._characters.append({})
        self._is_star.append(is_star)
        return len(self._characters) - 1

    def _forget(self) -> None:
        self._sets: list[tuple[int, ...]] = [()]
        self._index: dict[tuple[int, ...], int] = {(): _DEAD}
        self._moves: list[dict[str, int]] = [{}]
        self._accepted: dict[int, tuple[int, ...]] = {}
        self._prefixes: dict[str, int] = {}
        self._entries = 0
        self._start = self._state_of(self._closed({0}))

    def _read(self, state: int, text: str) -> int:
        moves = self._moves
        self.steps += len(text)
        for character in text:
            if state == _DEAD:
                return state
            after = moves[state].get(character)
            if after is None:
                after = self._move(state, character)
                moves = self._moves
            state = after
        return state

    def _move(self, state: int, character: str) -> int:
        """Compute the set that follows `state`, and remember it."""
        after: set[int] = set()
        entries = self._sets[state]
        self.steps += len(entries)
        for entry in entries:
            if entry >= 0:
                self._move_node(entry, character, after)
            else:
                self._move_number(*self._begun[-1 - entry], character, after)
        found = self._closed(after)
        if self._entries > _ENTRIES:
            self._forget()
            return self._state_of(found)
        self._moves[state][character] = self._state_of(found)
        return self._moves[state][character]

    def _move_node(self, node: int, character: str, after: set[int]) -> None:
        if self._is_star[node]:
            after.add(node)
        for following in (self._characters[node].get(character), self._any.get(node)):
            if following is not None:
                after.add(following)
        if node in self._ranges and "0" <= character <= "9":
            self._begin(node, int(character), after)

    def _move_number(self, node: int, value: int, character: str, after: set[int]) -> None:
        if "0" <= character <= "9":
            # Numbers are written without leading zeros.
            if value:
                self._begin(node, value * 10 + int(character), after)
            return
        for behind in self._behind(node, value):
            self._move_node(behind, character, after)

    def _behind(self, node: int, value: int) -> tuple[int, ...]:
        """Return the nodes behind those ranges after `node` that have the number `value`."""
        ranges = self._ranges[node]
        self.steps += len(ranges)
        return self._closed({behind for (first, last), behind in ranges.items() if first <= value <= last})

    def _begin(self, node: int, value: int, after: set[int]) -> None:
        if value > self._largest[node]:
            return
        key = (node, value)
        index = self._begun_index.get(key)
        if index is None:
            index = self._begun_index[key] = len(self._begun)
            self._begun.append(key)
        after.add(-1 - index)

    def _closed(self, entries: set[int]) -> tuple[int, ...]:
        """Return `entries` and the stars that follow them: a `*` may stand for nothing."""
        return tuple(sorted(entries | {self._stars[entry] for entry in entries if entry in self._stars}))

    def _state_of(self, entries: tuple[int, ...]) -> int:
        state = self._index.get(entries)
        if state is None:
            state = self._index[entries] = len(self._sets)
            self._sets.append(entries)
            self._moves.append({})
            self._entries += len(entries) + 1
        return state

    def _accepted_by(self, entries: Sequence[int]) -> tuple[int, ...]:
        found: set[int] = set()
        for entry in entries:
            ends = (entry,) if entry >= 0 else self._behind(*self._begun[-1 - entry])
            for node in ends:
                found.update(self._accepts.get(node, ()))
        return tuple(sorted(found))
