"""`Document`: a configuration file as it was read, with the line of every key. It checks nothing
beyond the syntax.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora.folders.regular_file import read_regular_file
from clora.limits import LARGEST_CONFIG_DEPTH, LARGEST_CONFIG_KEYS
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

# Names are matched possessively (`++`), so that the search never goes back.
_NAME = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"{_NAME}(?:[ \t]*+\.[ \t]*+{_NAME}){{200}}")
_POSITION_IN_MESSAGE = re.compile(r" \(at line (\d+), column (\d+)\)$")


@dataclass(frozen=True)
class Document:
    """A configuration file. Without a file all its tables are empty."""

    root: Path
    """The folder that paths in the configuration are relative to."""
    path: Path | None
    prefix: KeyPath = ()
    """Path of the tool's table in the file: `("tool", "clora-inspect")` in a `pyproject.toml`."""
    tables: dict[str, Any] = field(default_factory=dict)
    """The tool's table as `tomllib` read it, unchecked."""
    text: str = ""

    @cached_property
    def positions(self) -> Positions:
        # Scanned on demand: most runs have no finding that points into the file.
        return scan(self.text)

    @property
    def name(self) -> str:
        """The file as messages name it: its path relative to `root`."""
        return file_name(self.path, self.root) if self.path else "no configuration file"

    def location(self, key: KeyPath, *, of_key: bool = False) -> Location | None:
        """Return the position of the value of `key`, or with `of_key` that of the key itself.

        For a key that is not in the file it is the position of the nearest table above it. None
        when there is no file.
        """
        if self.path is None:
            return None
        for end in range(len(key), -1, -1):
            path = (*self.prefix, *key[:end])
            # A header such as [a.b] has a key and no value, an element of an array the reverse.
            of_keys_first = of_key or end < len(key)
            keys, values = self.positions.keys, self.positions.values
            found = keys.get(path) or values.get(path) if of_keys_first else values.get(path) or keys.get(path)
            if found is not None:
                return Location(
                    file=self.name,
                    line=found.line,
                    column=found.column,
                    length=found.length,
                    text=self.line(found.line),
                    key=written((*self.prefix, *key)),
                )
        return Location(file=self.name, key=written((*self.prefix, *key)) or None)

    def has(self, key: KeyPath) -> bool:
        """Return whether `key` is in the file."""
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
        """Return line `number`, counted from 1, without its line break; empty after the last."""
        # Not `splitlines`, which also splits at characters that a TOML string may contain.
        return self._lines[number - 1].rstrip("\r") if 0 < number <= len(self._lines) else ""

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.split("\n")


def discover(start: Path) -> Document:
    """Read the nearest configuration in `start` or a folder above it.

    In the same folder `clora-inspect.toml` goes before `pyproject.toml`. A `pyproject.toml` without
    the tool's table is skipped.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    # Without symbolic links, so that `parents` are the folders that really are above.
    start = start.resolve()
    for folder in (start, *start.parents):
        # Of what is there, only a file can be read. The error of anything else is better than the
        # configuration of a folder above.
        own = folder / OWN_FILE
        if os.path.lexists(own):
            return read(own)
        project = folder / "pyproject.toml"
        if os.path.lexists(project):
            document = read(project)
            if document.path is not None:
                return document
    return Document(root=start, path=None)


def read(path: Path) -> Document:
    """Read the configuration in the file at `path`.

    The result has no `path` when the file is a `pyproject.toml` without the tool's table.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    text = text_of(path)
    # After reading: a link that points to itself cannot be resolved, and the error is a clear one.
    root = path.resolve().parent
    if is_too_long(text):
        # tomllib takes time and memory that grow with the square of a key's length.
        raise ConfigError(f"{file_name(path, root)} has a key of more than 200 names: that is no configuration.")
    try:
        tables: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(path, root, text, error)]) from None
    except RecursionError:
        raise ConfigError(f"{file_name(path, root)} is nested too deeply to be a configuration.") from None
    except ValueError:
        raise ConfigError(f"{file_name(path, root)} has a number of more than 4,300 digits.") from None
    prefix: KeyPath = TABLE if path.name == "pyproject.toml" else ()
    for name in prefix:
        tables = tables.get(name) if isinstance(tables, dict) else None
    if tables is None:
        return Document(root=root, path=None)
    document = Document(root=root, path=path.resolve(), prefix=prefix, text=text)
    # `tool.clora-inspect = 3` is valid TOML.
    if not isinstance(tables, dict):
        raise ConfigError([Problem("it is a table.", document.location(()))])
    _check_size(tables, file_name(path, root))
    return Document(root=root, path=path.resolve(), prefix=prefix, tables=tables, text=text)


def is_too_long(text: str) -> bool:
    """Return whether TOML has a dotted key of more than 200 names."""
    return _LONG_KEY.search(text) is not None


def _check_size(tables: dict[str, Any], name: str) -> None:
    """Refuse a document that is too deep or too large.

    Raises:
        ConfigError: it has too many levels, or too many keys and elements.
    """
    level: list[Any] = [tables]
    seen = depth = 0
    while level:
        depth, seen = depth + 1, seen + len(level)
        if depth > LARGEST_CONFIG_DEPTH or seen > LARGEST_CONFIG_KEYS:
            what = f"{LARGEST_CONFIG_DEPTH} levels" if depth > LARGEST_CONFIG_DEPTH else f"{LARGEST_CONFIG_KEYS:,} keys"
            raise ConfigError(f"{name} has more than {what}: that is no configuration.")
        level = [
            below
            for value in level
            for below in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
        ]


def file_name(path: Path, root: Path) -> str:
    """Return `path` relative to `root`, with forward slashes; unchanged when it is outside."""
    try:
        return path.resolve().relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def text_of(path: Path) -> str:
    """Return the text of the configuration file at `path`.

    Raises:
        ConfigError: the file cannot be read, is too large to be a configuration, or is not UTF-8.
    """
    try:
        # Some editors on Windows put a byte-order mark before the text; tomllib does not take it.
        return read_regular_file(path, LARGEST_FILE).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}), which TOML must be.") from None


def _syntax_problem(path: Path, root: Path, text: str, error: tomllib.TOMLDecodeError) -> Problem:
    # Before Python 3.14, `TOMLDecodeError` has its position only in its message, where it is a line
    # and a column, or "at end of document".
    message = str(error)
    position = _POSITION_IN_MESSAGE.search(message)
    # The end of the document is its last line that is not blank: an editor can go there.
    end = text.count("\n", 0, len(text.rstrip())) + 1
    location = Location(
        file=file_name(path, root),
        line=int(position[1]) if position else end,
        column=int(position[2]) if position else None,
    )
    return Problem(
        f"not valid TOML: {_POSITION_IN_MESSAGE.sub('', message).removesuffix(' (at end of document)')}.", location
    )
