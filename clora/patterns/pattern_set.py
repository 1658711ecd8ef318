"""`PatternSet`: many targets that are compared with each path at once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from clora.patterns.automaton import Automaton
from clora.patterns.grammar import is_bare, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class PatternSet:
    """Targets in their order, each once.

    A bare target is looked up by the last name of a path, a whole path by the path, and all others
    are matched together by one `Automaton`. So the number of targets hardly matters.
    """

    def __init__(self, targets: Iterable[str], field: str = "target_modules") -> None:
        """Read the targets.

        Raises:
            TargetError: one of them is malformed or too long.
        """
        self.targets = tuple(dict.fromkeys(targets))
        self._bare: dict[str, int] = {}
        self._whole: dict[str, int] = {}
        self._wild: list[int] = []
        patterns = []
        for number, target in enumerate(self.targets):
            if is_bare(target):
                self._bare[target] = number
                continue
            tokens = tokens_of(target, field)
            if "*" not in target and "{" not in target:
                self._whole[target] = number
            else:
                self._wild.append(number)
                patterns.append(tokens)
        self._automaton = Automaton(patterns)
        self._selections: dict[tuple[int | tuple[int, ...], ...], tuple[str, ...]] = {}
        self._lookups = 0

    @property
    def steps(self) -> int:
        """Cost of the matching so far: look-ups, and steps of the automaton."""
        return self._automaton.steps + self._lookups

    def matching(self, *paths: str) -> tuple[str, ...]:
        """Return the targets that match at least one of `paths`, in their order.

        Equal answers are mostly the same object, which callers may use to do their own work once.
        """
        self._lookups += len(paths)
        key: tuple[int | tuple[int, ...], ...] = ()
        for path in paths:
            # No target has the number -1.
            bare, whole = self._bare.get(path[path.rfind(".") + 1 :], -1), self._whole.get(path, -1)
            key += (bare, whole, self._automaton.accepted(path) if self._wild else ())
        found = self._selections.get(key)
        if found is None:
            numbers = {number for number in key if isinstance(number, int) and number >= 0}
            numbers.update(self._wild[one] for wild in key if isinstance(wild, tuple) for one in wild)
            found = self._selections[key] = tuple(self.targets[number] for number in sorted(numbers))
        return found


def matches(target: str, path: str) -> bool:
    """Return whether `target` matches the module or canonical part at `path`.

    Raises:
        TargetError: `target` is malformed or too long.
    """
    return bool(matcher(target)(path))


@lru_cache(maxsize=4096)
def matcher(target: str) -> Callable[[str], object]:
    """Return a function that tells whether `target` matches a path, by a true or false value.

    Raises:
        TargetError: `target` is malformed or too long.
    """
    if is_bare(target):
        return lambda path: target == path[path.rfind(".") + 1 :]
    tokens = tokens_of(target)
    if "*" not in target and "{" not in target:
        return lambda path: target == path
    return Automaton([tokens]).accepted
