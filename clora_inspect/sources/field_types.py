"""Compare a JSON value with the annotation of the field that it is for.

megatron-core does not check the types of its config. A wrong one would be an error of Python's deep
inside a layer, or would pass: a number for a flag, a string for a list of strings.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_ONE = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
    NoneType: "null",
}
_SEVERAL = {bool: "flags", int: "whole numbers", float: "numbers", str: "strings"}


def fits(value: object, declared: Any) -> bool:
    """Return whether a field that is annotated with `declared` may have the JSON value `value`.

    The name of a member of an enumeration stands for the member, and a tuple, which Python's users
    write, for a list.
    """
    value = list(value) if isinstance(value, tuple) else value
    origin = get_origin(declared)
    if declared is Any:
        return True
    if declared is Callable or origin is Callable:
        return callable(value)
    if origin is None:
        return isinstance(declared, type) and _fits_class(value, declared)
    return _fits_generic(value, origin, get_args(declared))


def _fits_generic(value: object, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        # `True == 1`, and neither is the other here.
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(fits, value, arguments))
    return False


def _fits_class(value: object, declared: type) -> bool:
    if issubclass(declared, Enum):
        return isinstance(value, declared) or (isinstance(value, str) and value in declared.__members__)
    if isinstance(value, bool):
        return declared is bool
    return isinstance(value, int | float if declared is float else declared)


def words_for(declared: Any) -> str:
    """Return what a field that is annotated with `declared` holds, to follow "it is"."""
    kinds = _alternatives(declared)
    # Nobody can write an object of Python in JSON. It is named where nothing else is left.
    words = list(dict.fromkeys(word for kind in kinds if (word := _words_for_one(kind)) is not None))
    if not words or words == ["null"]:
        return " or ".join([*words, "an object of Python, which only a model function of your own can set"])
    return ", ".join(words[:-1]) + (" or " if words[1:] else "") + words[-1]


def _alternatives(declared: Any) -> list[Any]:
    if get_origin(declared) in (Union, UnionType):
        # null comes last, as one would say it.
        return sorted(
            (kind for one in get_args(declared) for kind in _alternatives(one)), key=lambda kind: kind is NoneType
        )
    return [declared]


def _words_for_one(kind: Any) -> str | None:
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return _choice(map(repr, arguments))
    if get_origin(kind) is list:
        return f"a list of {_SEVERAL[arguments[0]]}" if arguments[0] in _SEVERAL else None
    if get_origin(kind) is tuple:
        return f"a list of {len(arguments)} {_SEVERAL.get(arguments[0], 'values')}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _choice(map(repr, kind.__members__))
    return _ONE.get(kind)


def _choice(values: Any) -> str:
    names = list(values)
    return f"one of {', '.join(names)}" if names[1:] else names[0]
