"""The grammar of target strings, by examples:

- ``linear_proj`` has no dot and no wildcard. It matches every module with that *last name*.
- ``decoder.layers.3.mlp.linear_fc2`` is a path. It matches the module with that *whole path*.
- ``*.layers.1.*.linear_proj`` has wildcards: ``*`` stands for any run of characters, dots included.
  Every other character stands for itself, and the pattern covers the whole path. So this one
  matches in layer 1 and not in layers 10 to 19.
- ``*.layers.{0..3}.*`` has a range: ``{a..b}`` stands for one whole number from a to b, both
  included.

A fused linear has the names of its canonical parts: ``...self_attention.linear_qkv`` is matched as
``...self_attention.linear_q``, ``linear_k`` and ``linear_v``.

Everything here is text: the module needs neither torch nor megatron-core.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from clora.errors import TargetError, cut
from clora.fused import FUSED, PARTS_BY_TARGET
from clora.limits import LARGEST_PATTERN, LARGEST_PATTERNS, LARGEST_PATTERNS_TEXT, LARGEST_RANGE

if TYPE_CHECKING:
    from collections.abc import Iterable


class Wildcard(Enum):
    """Characters that a token stands for which is neither text nor a range."""

    STAR = "any run of characters"
    ANY = "one character"
    """No target has it. Rules use it to read a target as Megatron-Bridge does."""


STAR, ANY = Wildcard.STAR, Wildcard.ANY

Token = str | tuple[int, int] | Wildcard
"""A part of a target: literal characters, a wildcard, or the first and last number of a range."""

# A digit at the start of a segment or after a wildcard, not the one in `linear_fc1`; or a range.
_NUMBER = re.compile(r"(?:^|[^A-Za-z0-9_])(?:\d|\{)")
_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")
_TOKEN = re.compile(r"\*+|\{[0-9]+\.\.[0-9]+\}|[^*{]+|\{")


def check_target(target: object, field: str = "target_modules") -> str:
    """Return `target` unless it can never match.

    Args:
        target: one entry of `target_modules` or `exclude_modules`.
        field: the name of that field, for the message. A fused linear may be excluded by its own
            name.

    Raises:
        TargetError: `target` is not a string, is empty, has a malformed range, or names a fused
            linear (`linear_qkv`, `linear_fc1`) instead of its canonical parts.
    """
    if not isinstance(target, str):
        raise TargetError(
            f"{field} holds {target!r}, a {type(target).__name__}: every target is a string such as 'linear_q'."
        )
    if not target.strip():
        raise TargetError(f"{field} holds an empty string, which can match nothing. Remove it.")
    last = target.rsplit(".", 1)[-1]
    if last in FUSED and field == "target_modules":
        stem = target[: -len(last)]
        parts = ", ".join(f"'{stem}{part_target}'" for part_target in FUSED[last].values())
        raise TargetError(
            f"{field} names the fused '{target}': canonical LoRA adapts its parts separately. "
            f"Write {parts}, or those of them that you want."
        )
    tokens_of(target, field)
    return target


def check_targets(targets: Iterable[str], field: str) -> None:
    """Refuse a list that is too long.

    Raises:
        TargetError: it has too many entries, or too many characters.
    """
    targets = list(targets)
    if len(targets) > LARGEST_PATTERNS:
        raise TargetError(
            f"{field} has {len(targets):,} entries, and {LARGEST_PATTERNS:,} is the most. "
            "Write patterns such as *.layers.{0..3}.*.linear_q, which stand for many paths."
        )
    length = sum(map(len, targets))
    if length > LARGEST_PATTERNS_TEXT:
        raise TargetError(
            f"the entries of {field} have {length:,} characters, and {LARGEST_PATTERNS_TEXT:,} is the most. "
            "Write patterns such as *.layers.{0..3}.*.linear_q, which stand for many paths."
        )


def tokens_of(target: str, field: str = "target_modules") -> list[Token]:
    """Return the parts of `target`; a run of stars is one star.

    Raises:
        TargetError: it is too long, or has a malformed range.
    """
    if len(target) > LARGEST_PATTERN:
        raise TargetError(
            f"{field}: '{target[:40]}...' has {len(target):,} characters, and {LARGEST_PATTERN:,} is the most: "
            "no module has so long a path."
        )
    if any(brace in _RANGE.sub("", target) for brace in "{}"):
        raise TargetError(
            f"{field}: '{target}' has a brace that is no range. "
            "A range is {first..last}, for example *.layers.{0..3}.*"
        )
    return [_token(found[0], target, field) for found in _TOKEN.finditer(target)]


def _token(text: str, target: str, field: str) -> Token:
    if text[0] == "*":
        return STAR
    found = _RANGE.fullmatch(text)
    if found is None:
        return text
    first, last = int(found[1]), int(found[2])
    if last < first or last > LARGEST_RANGE:
        raise TargetError(
            f"{field}: the range {cut(found[0])} in '{cut(target)}' is empty or absurd. "
            f"Write the smaller number first, and none above {LARGEST_RANGE:,}: {{0..3}}."
        )
    return first, last


def is_bare(target: str) -> bool:
    """Return whether `target` is a last name: no dot, no wildcard, no range."""
    return not any(character in target for character in ".*{")


def names_a_number(target: str) -> bool:
    """Return whether `target` names layers or experts by number.

    `*.layers.1.*` and `*.layers.{0..3}.*` do, `linear_fc1` does not.
    """
    return _NUMBER.search(target) is not None


def canonical_names(path: str) -> dict[str, str]:
    """Return canonical part -> the path by which targets address that part of a fused linear.

    Empty when the last name of `path` is not that of a fused linear.
    """
    stem, _, last = path.rpartition(".")
    dot = "." if stem else ""
    return {part: f"{stem}{dot}{name}" for part, name in FUSED.get(last, {}).items()}


def canonical_mapping(targets: Iterable[str]) -> dict[str, set[str]]:
    """Return module pattern -> canonical targets: `{"linear_qkv": {"linear_q", "linear_v"}, ...}`.

    `CanonicalLoRA` of Megatron-Bridge has an attribute of this shape, which other code reads.
    """
    mapping: dict[str, set[str]] = {}
    for target in targets:
        stem, dot, last = target.rpartition(".")
        fused = PARTS_BY_TARGET.get(last)
        mapping.setdefault(f"{stem}{dot}{fused[0] if fused else last}", set()).add(last)
    return mapping
