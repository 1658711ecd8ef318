"""Match a path with many patterns at once, in time linear in the path.

The patterns form trees of characters, in which patterns that begin alike share nodes. A path is
read from left to right, and the set of nodes that fit what was read so far moves with it. Nothing
is read twice, so that no pattern can make it go back. The sets are remembered: paths of one model
are alike, and most steps are one look-up.

The first tree has all patterns up to their first range, the second one has what follows that range
up to the next, and so on. Ten thousand patterns `*.layers.{a..b}.*.linear_q` have one second tree
of a dozen nodes. Which of the patterns have come there is remembered beside the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from clora.patterns.grammar import ANY, STAR
from clora.patterns.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clora.patterns.grammar import Token

_DEAD = 0
"""The set of no threads, from which no character leads out."""

_ALL = -1
"""All patterns, as an integer with all bits set."""

_NO_NUMBER = -1

_ENTRIES = 2_000_000
"""Words of memory in all that is remembered. Beyond that it is forgotten and computed again."""

_PREFIXES = 200_000
"""Number of remembered prefixes."""


class _Thread(NamedTuple):
    """A node that fits what was read."""

    node: int
    number: int
    """The value of the digits that were read behind the node, for its ranges; or `_NO_NUMBER`."""
    patterns: int
    """The patterns whose earlier ranges fit, one bit each."""


class Automaton:
    """Reads paths and tells which patterns cover them."""

    def __init__(self, patterns: Sequence[Sequence[Token]]) -> None:
        self.steps = 0
        """Cost of the matching so far: one for each character that was looked up, and one for
        each thread of a set that was computed.
        """
        self._characters: list[dict[str, int]] = []
        """Node -> character -> next node."""
        self._stars: dict[int, int] = {}
        """Node -> the node behind a `*` that follows it."""
        self._any: dict[int, int] = {}
        """Node -> the node behind any one character."""
        self._is_star: list[bool] = []
        """Node -> True if any character leads back to it."""
        self._ranges: dict[int, tuple[Ranges, int]] = {}
        """Node -> the ranges that follow it, and the root of the next tree."""
        self._accepts: dict[int, list[int]] = {}
        """Node -> patterns that end there."""
        self._roots = [self._new_node()]
        """The roots of the trees."""
        for number, tokens in enumerate(patterns):
            node = tree = self._roots[0]
            for token in tokens:
                if isinstance(token, tuple):
                    tree += 1
                    node = self._add_range(node, token, number, tree)
                else:
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
            # Reading may replace `_prefixes`, so the state is read first.
            state = self._read(self._start, head)
            self._prefixes[head] = state
        state = self._read(state, path[cut:])
        found = self._accepted.get(state)
        if found is None:
            found = self._accepted[state] = self._accepted_by(self._sets[state])
            self._entries += len(found) + 1
        return found

    def _add(self, node: int, token: Token) -> int:
        """Return the node behind `token` after `node`; make it if there is none."""
        if token is STAR:
            if node not in self._stars:
                self._stars[node] = self._new_node(is_star=True)
            return self._stars[node]
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

    def _add_range(self, node: int, bounds: tuple[int, int], pattern: int, tree: int) -> int:
        """Let a range of `pattern` follow `node`, and return the root of the next tree."""
        if tree == len(self._roots):
            self._roots.append(self._new_node())
        ranges, root = self._ranges.setdefault(node, (Ranges(), self._roots[tree]))
        ranges.add(*bounds, pattern)
        return root

    def _new_node(self, *, is_star: bool = False) -> int:
        self._characters.append({})
        self._is_star.append(is_star)
        return len(self._characters) - 1

    def _forget(self) -> None:
        self._threads: list[_Thread] = []
        self._thread_numbers: dict[tuple[int, int, int], int] = {}
        self._sets: list[tuple[int, ...]] = [()]
        """State -> numbers of its threads."""
        self._index: dict[tuple[int, ...], int] = {(): _DEAD}
        self._moves: list[dict[str, int]] = [{}]
        self._accepted: dict[int, tuple[int, ...]] = {}
        self._prefixes: dict[str, int] = {}
        self._entries = 0
        start: dict[tuple[int, int], int] = {}
        self._enter(self._roots[0], _ALL, start)
        self._start = self._state_of(start)

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
        after: dict[tuple[int, int], int] = {}
        numbers = self._sets[state]
        self.steps += len(numbers)
        for number in numbers:
            thread = self._threads[number]
            if thread.number == _NO_NUMBER:
                self._move_node(thread.node, thread.patterns, character, after)
            else:
                self._move_number(thread, character, after)
        if self._entries > _ENTRIES:
            self._forget()
            return self._state_of(after)
        found = self._moves[state][character] = self._state_of(after)
        return found

    def _move_node(self, node: int, patterns: int, character: str, after: dict[tuple[int, int], int]) -> None:
        if self._is_star[node]:
            self._enter(node, patterns, after)
        following = self._characters[node].get(character)
        if following is not None:
            self._enter(following, patterns, after)
        if node in self._any:
            self._enter(self._any[node], patterns, after)
        if node in self._ranges and "0" <= character <= "9":
            self._count(node, int(character), patterns, after)

    def _move_number(self, thread: _Thread, character: str, after: dict[tuple[int, int], int]) -> None:
        if "0" <= character <= "9":
            # Numbers are written without leading zeros.
            if thread.number:
                self._count(thread.node, thread.number * 10 + int(character), thread.patterns, after)
            return
        for (behind, _), patterns in self._behind(thread).items():
            self._move_node(behind, patterns, character, after)

    def _behind(self, thread: _Thread) -> dict[tuple[int, int], int]:
        """Return where the patterns go on that have the number of `thread` in their range."""
        ranges, root = self._ranges[thread.node]
        behind: dict[tuple[int, int], int] = {}
        patterns = thread.patterns & ranges.containing(thread.number)
        if patterns:
            self._enter(root, patterns, behind)
        self.steps += 1 + len(behind)
        return behind

    def _count(self, node: int, number: int, patterns: int, after: dict[tuple[int, int], int]) -> None:
        if number <= self._ranges[node][0].largest:
            after[node, number] = after.get((node, number), 0) | patterns

    def _enter(self, node: int, patterns: int, after: dict[tuple[int, int], int]) -> None:
        """Add `node`, and the star that follows it: a `*` may stand for nothing."""
        place = (node, _NO_NUMBER)
        after[place] = after.get(place, 0) | patterns
        star = self._stars.get(node)
        if star is not None:
            place = (star, _NO_NUMBER)
            after[place] = after.get(place, 0) | patterns

    def _state_of(self, threads: Mapping[tuple[int, int], int]) -> int:
        numbers = tuple(sorted([self._number_of(*place, patterns) for place, patterns in threads.items()]))
        state = self._index.get(numbers)
        if state is None:
            state = self._index[numbers] = len(self._sets)
            self._sets.append(numbers)
            self._moves.append({})
            self._entries += len(numbers) + 1
        return state

    def _number_of(self, node: int, number: int, patterns: int) -> int:
        # A plain tuple is as good a key as a `_Thread`, and faster to make.
        index = self._thread_numbers.get((node, number, patterns))
        if index is None:
            thread = _Thread(node, number, patterns)
            index = self._thread_numbers[thread] = len(self._threads)
            self._threads.append(thread)
            self._entries += 4 + patterns.bit_length() // 64
        return index

    def _accepted_by(self, numbers: Sequence[int]) -> tuple[int, ...]:
        found: set[int] = set()
        for thread in map(self._threads.__getitem__, numbers):
            ends = {(thread.node, _NO_NUMBER): thread.patterns} if thread.number == _NO_NUMBER else self._behind(thread)
            for (node, _), patterns in ends.items():
                found.update(_those_of(self._accepts.get(node, ()), patterns))
        return tuple(sorted(found))


def _those_of(numbers: Sequence[int], patterns: int) -> Sequence[int]:
    """Return those of `numbers` whose bit is set."""
    if patterns == _ALL or not numbers:
        return numbers
    # The digits of a binary number are faster to look up than a shifted integer.
    digits = f"{patterns:b}"[::-1]
    return [number for number in numbers if number < len(digits) and digits[number] == "1"]
