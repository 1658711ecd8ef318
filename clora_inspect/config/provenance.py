"""List every key of a configuration with its value and its source. Pure."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clora_inspect.config.key_path import KeyPath, written
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.config.load import Configuration


@dataclass(frozen=True, slots=True)
class Value:
    """The value of one key, and its source."""

    key: str
    value: Any
    """A string, number, bool, date, list or dict: what TOML has."""
    origin: str
    """`pyproject.toml:8`, `--config`, `CLORA_INSPECT_FAIL_ON`, `default`."""

    @property
    def toml(self) -> str:
        return toml_value(self.value)


def values(configuration: Configuration) -> list[Value]:
    """Return all keys. Those of jobs and LoRAs are listed only if the configuration sets them."""
    return [
        Value(written(key), value, configuration.origin(key))
        for key, value in _leaves((), configuration.settings)
        if value is not None
    ]


def _leaves(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    """Yield key and value of everything that is not a table."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            inner = getattr(value, field.name)
            # Left out: fields of a LoRA that are not set (their defaults are CanonicalLoRA's), and
            # fields of a layout that have their default.
            if inner is msgspec.UNSET or (isinstance(value, Layout) and inner == field.default):
                continue
            yield from _leaves((*path, field.encode_name), inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves((*path, name), inner)
    elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
        for number, inner in enumerate(value):
            yield from _leaves((*path, number), inner)
    else:
        yield path, value


def toml_value(value: Any) -> str:
    # Before numbers: a bool is an int in Python.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # A basic string of TOML has the escapes of JSON. `str` makes one of an enum as well.
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return (
            f"{{ {', '.join(f'{written((name,))} = {toml_value(inner)}' for name, inner in value.items())} }}"
            if value
            else "{}"
        )
    return value.isoformat() if isinstance(value, dt.date) else str(value)
