"""List every key of a configuration with its value and its source. Pure."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clora_inspect.config.jobs import configured_jobs
from clora_inspect.config.key_path import KeyPath, written
from clora_inspect.config.working_folder import working_in
from clora_inspect.job.layout import UNSET_ETP, Layout
from clora_inspect.sources.settled import settled

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
    found = []
    for key, value in _leaves((), configuration.settings):
        if value is not None:
            found.append(Value(written(key), value, configuration.origin(key)))
        elif key[-1] == "etp":
            found += _unset_etp(configuration, key)
    return found


def _unset_etp(configuration: Configuration, key: KeyPath) -> Iterator[Value]:
    """Yield the etp that a layout gets which leaves it out, if its job has experts that it splits.

    `key` is `("jobs", JOB, "layouts", LAYOUT, "etp")`.
    """
    _, job, _, layout, _ = key
    made = configured_jobs(configuration, [str(job)], str(layout))[0]
    with working_in(configuration.root):
        etp = settled(made.job).etp
    if made.job.layout.etp is not None:
        yield Value(written(key), etp, f"default ({made.implementation} sets it where ep > 1)")
    elif etp is not None and etp > 1:
        yield Value(written(key), etp, f"default ({UNSET_ETP})")


def _leaves(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    """Yield key and value of everything that is not a table."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            inner = getattr(value, field.name)
            # Left out: fields of a LoRA that are not set (their defaults are CanonicalLoRA's), and
            # fields of a layout that have their default, except one that depends on the model.
            is_default = isinstance(value, Layout) and inner == field.default and field.name != "etp"
            if inner is msgspec.UNSET or is_default:
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
