"""`Document`: a configuration file as it was read, and where every key of it stands. Reading is all
it does.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_inspect.config.errors import ConfigError, Problem
from clora_inspect.config.key_path import written
from clora_inspect.config.toml_positions import Positions, scan
from clora_inspect.job.finding import Location

if TYPE_CHECKING:
    from clora_inspect.config.key_path import KeyPath

TABLE = ("tool", "clora-inspect")
"""Where the configuration stands in a `pyproject.toml`."""

OWN_FILE = "clora-inspect.toml"
LARGEST_FILE = 4 * 1024 * 1024
"""Bytes. A configuration is a few thousand; a larger file is something else."""

_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")


@dataclass(frozen=True)
class Document:
    """A configuration file; or none, and then every table is empty."""

    root: Path
    """The folder that paths in the configuration are relative to."""
    path: Path | None
    prefix: KeyPath = ()
    """What stands before every key: `("tool", "clora-inspect")` in a `pyproject.toml`."""
    tables: dict[str, Any] = field(default_factory=dict)
    """The keys of the tool, raw."""
    text: str = ""

    @cached_property
    def positions(self) -> Positions:
        """Found when first asked for: a configuration without mistakes needs none."""
        return scan(self.text)

    @property
    def name(self) -> str:
        """The file as messages name it, relative to `root`."""
        return file_name(self.path, self.root) if self.path else "no configuration file"

    def location(self, key: KeyPath, *, of_key: bool = False) -> Location | None:
        """Where the value of `key` stands (or the key itself); for a key that is not written, its
        nearest written ancestor.

        None when no file was read.
        """
        if self.path is None:
            return None
        for end in range(len(key), -1, -1):
            path = (*self.prefix, *key[:end])
            spans = (
                (self.positions.keys, self.positions.values)
                if of_key or end < len(key)
                else (self.positions.values, self.positions.keys)
            )
            span = next((spanned[path] for spanned in spans if path in spanned), None)
            if span is not None:
                return Location(
                    file=self.name,
                    line=span.line,
                    column=span.column,
                    length=span.length,
                    text=self.line(span.line),
                    key=written((*self.prefix, *key)),
                )
        return Location(file=self.name, key=written((*self.prefix, *key)) or None)

    def has(self, key: KeyPath) -> bool:
        """Whether `key` is written."""
        found: Any = self.tables
        for part in key:
            inside = (
                part in found
                if isinstance(found, dict)
                else isinstance(found, list) and isinstance(part, int) and part < len(found)
            )
            if not inside:
                return False
            found = found[part]
        return True

    def line(self, number: int) -> str:
        """Line `number` of the file, counted from 1, without its end; empty beyond the last."""
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""


def discover(start: Path) -> Document:
    """The nearest configuration in `start` or a folder above it.

    In one folder `clora-inspect.toml` goes before `pyproject.toml`; a `pyproject.toml` without the
    table is passed by.

    Raises:
        ConfigError: the file cannot be read or is no TOML.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        own = folder / OWN_FILE
        if own.is_file():
            return read(own)
        project = folder / "pyproject.toml"
        if project.is_file():
            document = read(project)
            if document.path is not None:
                return document
    return Document(root=start, path=None)


def read(path: Path) -> Document:
    """The configuration in the file at `path`; one without a path when it is a `pyproject.toml`
    without the table.

    Raises:
        ConfigError: the file cannot be read or is no TOML.
    """
    root = path.resolve().parent
    text = _text(path)
    try:
        tables: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(path, root, text, error)]) from None
    except RecursionError:
        raise ConfigError(f"{file_name(path, root)} is nested too deeply to be a configuration.") from None
    prefix: KeyPath = TABLE if path.name == "pyproject.toml" else ()
    for name in prefix:
        tables = tables.get(name) if isinstance(tables, dict) else None
    if tables is None:
        return Document(root=root, path=None)
    document = Document(root=root, path=path.resolve(), prefix=prefix, text=text)
    if not isinstance(tables, dict):
        raise ConfigError([Problem("it is a table.", document.location(()))])
    return Document(root=root, path=path.resolve(), prefix=prefix, tables=tables, text=text)


def file_name(path: Path, root: Path) -> str:
    """`path` relative to `root`, with forward slashes; as it is where it lies elsewhere."""
    try:
        return path.resolve().relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path} has {path.stat().st_size:,} bytes: that is no configuration.")
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}): TOML is.") from None


def _syntax_problem(path: Path, root: Path, text: str, error: tomllib.TOMLDecodeError) -> Problem:
    """`tomllib` gives the place in its words, or says that it is the end of the document."""
    said = str(error)
    place = _PLACE.search(said)
    end = text.count("\n", 0, len(text.rstrip())) + 1
    location = Location(
        file=file_name(path, root), line=int(place[1]) if place else end, column=int(place[2]) if place else None
    )
    return Problem(f"not valid TOML: {_PLACE.sub('', said).removesuffix(' (at end of document)')}.", location)
