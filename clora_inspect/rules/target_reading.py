"""What a target selects: as we read it, as Megatron-Bridge reads it, and as its numbers would be
meant. Pure.
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

_LAYER = re.compile(r"(?:^|\.|\*)layers\.(?:\d|\{)")
_EXPERT = re.compile(r"(?:^|\.|\*)(?:local_experts|experts)\.(?:\d|\{)")
_REGEX_CHARACTERS = "?+()[]|^$\\"


def selected(target: str, linears: Iterable[Linear]) -> list[Linear]:
    """The linears that `target` selects."""
    return [linear for linear in linears if any(matches(target, name) for name in linear.names)]


def selected_by_global_number(target: str, linears: Iterable[Linear]) -> list[Linear]:
    """Those that it would select if layers had their numbers in the whole model."""
    return [
        linear for linear in linears if any(matches(target, global_path(name, linear.layer)) for name in linear.names)
    ]


def selected_by_regex(target: str, linears: Iterable[Linear]) -> list[Linear] | None:
    """Those that Megatron-Bridge selects, which takes all but `*` for a regular expression; None
    for one that does not compile.
    """
    if is_bare(target):
        return selected(target, linears)
    pattern = _regex(target)
    if pattern is None:
        return None
    return [linear for linear in linears if any(pattern.match(name) for name in linear.names)]


def reads_as_regex(target: str) -> bool:
    """Whether Megatron-Bridge's reading of `target` compiles."""
    return _regex(target) is not None


def has_layer_number(target: str) -> bool:
    """Whether `target` names a layer by number, or a range of them."""
    return _LAYER.search(target) is not None


def has_expert_number(target: str) -> bool:
    """Whether `target` names an expert by number, or a range of them."""
    return _EXPERT.search(target) is not None


def has_regex_characters(target: str) -> list[str]:
    """The characters of `target` that mean something in a regular expression and stand for
    themselves here; a dot is no surprise.
    """
    return [character for character in _REGEX_CHARACTERS if character in target]


@cache
def _regex(target: str) -> re.Pattern[str] | None:
    try:
        return re.compile(f"^{target.replace('*', '(.*)')}$")
    except re.error:
        return None
