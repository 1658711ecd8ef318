"""The linears that targets select: as clora reads the target, as Megatron-Bridge
reads it, and as if its layer numbers were those of the whole model. Pure.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING

from clora.layer_pattern import PREDICTION_LAYERS, gpt_path, hybrid_path
from clora.patterns import PatternSet, is_bare
from clora.patterns.automaton import Automaton
from clora.patterns.grammar import ANY, STAR
from clora_inspect.job.module_path import global_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from clora.patterns.grammar import Token
    from clora_inspect.rules.linears import Linear

# Pattern strings, not paths: a number may follow `*` directly, and `{` begins a range of numbers.
_LAYER = re.compile(r"(?:^|\.|\*)layers\.(?:\d|\{)")
_NUMBERED = re.compile(r"((?:^|\.|\*)layers\.)(?:(\d+)|\{(\d+)\.\.(\d+)\})")
_EXPERT = re.compile(r"(?:^|\.|\*)(?:local_experts|experts)\.(?:\d|\{)")
_REPETITION = re.compile(r"\{[0-9]*,?[0-9]*\}")
_REGEX_CHARACTERS = "?+()[]|^$\\"
"""Characters with a meaning in regular expressions. Braces have one in clora's patterns too, and a
dot is in every path, so that neither tells that the user had a regular expression in mind.
"""


class Selections:
    """Linears that each of many targets selects. All of them are matched at once."""

    def __init__(self, linears: Sequence[Linear], matching: Callable[[Linear], tuple[str, ...]]) -> None:
        """Ask `matching` for the targets of each linear."""
        self._linears = linears
        # Linears that the same targets select are one group: there are few of these, and ten
        # thousand targets may select the same hundred thousand linears.
        by_id: dict[int, tuple[tuple[str, ...], list[int]]] = {}
        for number, linear in enumerate(linears):
            targets = matching(linear)
            if targets:
                by_id.setdefault(id(targets), (targets, []))[1].append(number)
        self._groups = list(by_id.values())
        self._groups_of: dict[str, list[int]] = {}
        for number, (targets, _) in enumerate(self._groups):
            for target in targets:
                self._groups_of.setdefault(target, []).append(number)

    def of(self, target: str) -> tuple[Linear, ...]:
        """Return the linears that `target` selects, in their order."""
        numbers = [number for group in self._groups_of.get(target, ()) for number in self._groups[group][1]]
        return tuple(self._linears[number] for number in sorted(numbers))

    def overlaps(self, *, most: int) -> list[tuple[str, str]]:
        """Return the first pairs of targets that select one linear, at most `most` of them."""
        pairs: dict[tuple[str, str], None] = {}
        for targets, _ in self._groups:
            for pair in combinations(targets, 2):
                pairs[pair] = None
                if len(pairs) >= most:
                    return list(pairs)
        return list(pairs)


def by_target(targets: Iterable[str], linears: Sequence[Linear]) -> Selections:
    """Return what `targets` select."""
    patterns = PatternSet(targets)
    return Selections(linears, lambda linear: patterns.matching(*linear.names))


def by_global_number(targets: Iterable[str], linears: Sequence[Linear]) -> Selections:
    """Return what `targets` would select if they meant layers of the whole model."""
    patterns = PatternSet(targets)
    return Selections(
        linears, lambda linear: patterns.matching(*(global_path(name, linear.layer) for name in linear.names))
    )


def by_gpt_number(targets: Iterable[str], linears: Sequence[Linear]) -> Selections:
    """Return what `targets` would select in the GPTModel that the model, a HybridModel, stands for,
    as the linears that its own became.
    """
    patterns = PatternSet(targets)

    def names(linear: Linear) -> Iterator[str]:
        for name in linear.names:
            yield gpt_path(global_path(name, linear.layer)) or name

    return Selections(linears, lambda linear: patterns.matching(*names(linear)))


def in_hybrid_numbers(target: str, linears: Sequence[Linear]) -> str | None:
    """Return `target` with the layer numbers of the HybridModel in place of those of the GPTModel.

    It was tried: None where it does not select the same modules.
    """
    meant = by_gpt_number([target], linears).of(target)
    both = _NUMBERED.sub(lambda found: f"{found[1]}{{{2 * int(found[2] or found[3])}..{_last(found)}}}", target)
    for written in (hybrid_path(target), both):
        if written != target and meant and by_global_number([written], linears).of(written) == meant:
            return written
    return None


def last_layer_of(target: str) -> int:
    """Return the highest layer number that `target` names; -1 where it names none."""
    return max((int(found[2] or found[4]) for found in _NUMBERED.finditer(target)), default=-1)


def _last(found: re.Match[str]) -> int:
    return 2 * int(found[2] or found[4]) + 1


def by_other_release(target: str, linears: Sequence[Linear]) -> str | None:
    """Return `target` with the names of the release that built the model, where another one has
    renamed modules; None where that selects nothing either.
    """
    for old in PREDICTION_LAYERS:
        for new in PREDICTION_LAYERS:
            written = target.replace(old, new)
            if written != target and by_target([written], linears).of(written):
                return written
    return None


def by_own_name(targets: Iterable[str], linears: Sequence[Linear]) -> Selections:
    """Return what `targets` would select if linears had no other name than that of their module."""
    patterns = PatternSet(targets)
    return Selections(linears, lambda linear: patterns.matching(linear.local_path))


class BridgeSelections:
    """Linears that targets select in Megatron-Bridge, which reads them as regular expressions."""

    def __init__(self, targets: Iterable[str], linears: Sequence[Linear]) -> None:
        """Match the targets in which only `*` and `.` are special, all at once."""
        # Megatron-Bridge compares a bare target with the last name of a path, as clora does.
        self._bare = {target for target in targets if is_bare(target)}
        self._linears = linears
        self._simple = [target for target in targets if target not in self._bare and _is_simple(target)]
        automaton = Automaton([_tokens(target) for target in self._simple])
        known: dict[tuple[int, ...], tuple[str, ...]] = {}

        def matching(linear: Linear) -> tuple[str, ...]:
            hits = tuple(sorted({hit for name in linear.names for hit in automaton.accepted(name)}))
            if hits not in known:
                known[hits] = tuple(self._simple[hit] for hit in hits)
            return known[hits]

        self._selections = Selections(linears, matching)
        self._known = frozenset(self._simple)

    def of(self, target: str) -> Sequence[Linear] | None:
        """Return the linears that Megatron-Bridge selects by `target`, which is not bare.

        None when it cannot compile `target`, and when `target` could keep Python's `re` busy for
        minutes.
        """
        if target in self._known:
            return self._selections.of(target)
        pattern = _regex(target)
        if pattern is None or not _is_quick(target):
            return None
        return [linear for linear in self._linears if any(pattern.match(name) for name in linear.names)]

    def is_slow(self, target: str) -> bool:
        """Return whether `of` does not try `target`, which Megatron-Bridge would."""
        return target not in self._known and _regex(target) is not None and not _is_quick(target)


def is_regex(target: str) -> bool:
    """Return whether Megatron-Bridge can compile `target`."""
    return _regex(target) is not None


def has_layer_number(target: str) -> bool:
    """Return whether `target` names a layer by number, or a range of layers."""
    return _LAYER.search(target) is not None


def has_expert_number(target: str) -> bool:
    """Return whether `target` names an expert by number, or a range of experts."""
    return _EXPERT.search(target) is not None


def regex_characters(target: str) -> list[str]:
    """Return the characters of `target` that would mean something in a regular expression."""
    return [character for character in _REGEX_CHARACTERS if character in target]


@cache
def _regex(target: str) -> re.Pattern[str] | None:
    """Compile `target` as Megatron-Bridge does: it replaces `*` and escapes nothing."""
    try:
        return re.compile(f"^{target.replace('*', '(.*)')}$")
    # Deep nesting ends in a RecursionError, a huge repetition in an OverflowError.
    except (re.error, RecursionError, OverflowError):
        return None


def _is_simple(target: str) -> bool:
    """Return whether `*` and `.` are the only characters of `target` that `re` reads as special."""
    return not regex_characters(target) and not _REPETITION.search(target)


def _is_quick(target: str) -> bool:
    """Return whether matching `target` with `re` takes microseconds, whatever the path."""
    # Each `.*` or `+` may go back over the whole path, so that three of them take its cube.
    unbounded = len(re.findall(r"\*+|\+|\{", target))
    return unbounded <= 2 and target.count("?") + target.count("|") <= 4


def _tokens(target: str) -> list[Token]:
    return [
        STAR if piece[0] == "*" else ANY if piece == "." else piece for piece in re.findall(r"\*+|\.|[^*.]+", target)
    ]
