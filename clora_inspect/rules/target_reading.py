"""Functions that return the linears a target selects: as clora reads the target, as Megatron-Bridge
reads it, and as if its layer numbers were those of the whole model. Pure.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from clora.patterns import is_bare, matches
from clora_inspect.job.module_path import global_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.rules.linears import Linear

# Pattern strings, not paths: a number may follow `*` directly, and `{` begins a range of numbers.
_LAYER = re.compile(r"(?:^|\.|\*)layers\.(?:\d|\{)")
_EXPERT = re.compile(r"(?:^|\.|\*)(?:local_experts|experts)\.(?:\d|\{)")
_REGEX_CHARACTERS = "?+()[]|^$\\"
"""Characters with a meaning in regular expressions. Braces have one in clora's patterns too, and a
dot is in every path, so that neither tells that the user had a regular expression in mind.
"""


def selected(target: str, linears: Iterable[Linear]) -> list[Linear]:
    """Return the linears that `target` selects."""
    return [linear for linear in linears if any(matches(target, name) for name in linear.names)]


def selected_by_global_number(target: str, linears: Iterable[Linear]) -> list[Linear]:
    """Return the linears that `target` would select if it meant layers of the whole model."""
    return [
        linear for linear in linears if any(matches(target, global_path(name, linear.layer)) for name in linear.names)
    ]


def selected_by_regex(target: str, linears: Iterable[Linear]) -> list[Linear] | None:
    """Return the linears that Megatron-Bridge selects; None when it cannot compile `target`."""
    # Megatron-Bridge compares a bare target with the last name of a path, as clora does.
    if is_bare(target):
        return selected(target, linears)
    pattern = _regex(target)
    if pattern is None:
        return None
    return [linear for linear in linears if any(pattern.match(name) for name in linear.names)]


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
    except re.error:
        return None
