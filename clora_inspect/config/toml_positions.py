"""Find the line and column of every key and value in a TOML document. Pure text.

Messages point at the line of the configuration that is wrong. `tomllib` returns values without
positions. `scan` reads a document that `tomllib` has accepted, so it validates nothing: it only
finds where keys and values begin and end.
"""

# Why not a library: tomlkit, which we use for writing, keeps comments and white space but no line
# and no column of what it parsed. It would also be slow: our pyproject.toml of 408 lines takes this
# scanner 3 ms and tomlkit 20 ms, after an import of 50 ms.

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_inspect.config.key_path import KeyPath

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# A number, a date or a bool ends where a comma, a bracket, a comment or the next line begins. A
# blank does not end it: a date may contain one.
_SCALAR = re.compile(r"[^,\]}\n#]+")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


@dataclass(frozen=True, slots=True)
class TextRange:
    """A range of characters in one line.

    Lines and columns count from 1. A value of several lines is cut at the end of its first line.
    """

    line: int
    column: int
    length: int


@dataclass(frozen=True, slots=True)
class Positions:
    """The positions of keys and of values, by key path. Elements of an array have values only."""

    keys: dict[KeyPath, TextRange] = field(default_factory=dict)
    values: dict[KeyPath, TextRange] = field(default_factory=dict)


def scan(text: str) -> Positions:
    """Return the positions of all keys and values in `text`, which must be valid TOML."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.positions


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        """Index of the character that is read next."""
        self.positions = Positions()
        self._line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._array_lengths: dict[KeyPath, int] = {}
        """Path of each array of tables that was read so far -> number of its elements."""

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip_blank():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        """Read `[a.b]` or `[[a.b]]` and return the path of the table that it begins."""
        is_array = self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        names = self._dotted_key()
        self.at = self.text.index("]", self.at) + (2 if is_array else 1)
        path: KeyPath = ()
        for number, (name, place) in enumerate(names):
            path = (*path, name)
            # A table counts from where it is named first: [a.b] names a.
            self.positions.keys.setdefault(path, place)
            if is_array and number == len(names) - 1:
                index = self._array_lengths.get(path, 0)
                self._array_lengths[path] = index + 1
                path = (*path, index)
                self.positions.keys[path] = place
            elif path in self._array_lengths:
                # Inside an array of tables, a name means the element that was begun last.
                path = (*path, self._array_lengths[path] - 1)
        return path

    def _pair(self, table: KeyPath) -> None:
        path = table
        for name, place in self._dotted_key():
            path = (*path, name)
            self.positions.keys.setdefault(path, place)
        # Only blanks are left before the equals sign: `_dotted_key` has read the quoted names.
        self.at = self.text.index("=", self.at) + 1
        self._skip_spaces()
        self._value(path)

    def _dotted_key(self) -> list[tuple[str, TextRange]]:
        names = []
        while True:
            self._skip_spaces()
            start = self.at
            if self.text[start] in "\"'":
                self._string()
                name = _unquoted(self.text[start : self.at])
            else:
                found = _BARE.match(self.text, start)
                self.at = found.end() if found else start + 1
                name = self.text[start : self.at]
            names.append((name, self._range(start, self.at)))
            self._skip_spaces()
            if not self.text.startswith(".", self.at):
                return names
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        start = self.at
        opening = self.text[start]
        if opening in "\"'":
            self._string()
        elif opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            found = _SCALAR.match(self.text, start)
            self.at = start + len(found[0].rstrip()) if found else start + 1
        self.positions.values[path] = self._range(start, self.at)

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while self._skip_blank() and self.text[self.at] != "]":
            self._value((*path, index))
            index += 1
            self._skip_blank()
            if self.text.startswith(",", self.at):
                self.at += 1
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while self._skip_blank() and self.text[self.at] != "}":
            self._pair(path)
            self._skip_blank()
            if self.text.startswith(",", self.at):
                self.at += 1
        self.at += 1

    def _string(self) -> None:
        """Move past the string that begins here."""
        quote = self.text[self.at]
        if self.text.startswith(quote * 3, self.at):
            end = self.at + 3
            while not self.text.startswith(quote * 3, end):
                end += 2 if quote == '"' and self.text[end] == "\\" else 1
            end += 3
            # The text itself may end with one or two quotes, as in """He said "no"""".
            while self.text.startswith(quote, end):
                end += 1
            self.at = end
            return
        end = self.at + 1
        while self.text[end] != quote:
            end += 2 if quote == '"' and self.text[end] == "\\" else 1
        self.at = end + 1

    def _skip_spaces(self) -> None:
        while self.text.startswith((" ", "\t"), self.at):
            self.at += 1

    def _skip_blank(self) -> bool:
        """Skip white space and comments. Return False at the end of the text."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at].isspace():
                self.at += 1
            else:
                return True
        return False

    def _range(self, start: int, end: int) -> TextRange:
        line = bisect_right(self._line_starts, start)
        line_end = self.text.find("\n", start, end)
        if line_end >= 0:
            end = line_end
        if end > start and self.text[end - 1] == "\r":
            end -= 1
        return TextRange(line=line, column=start - self._line_starts[line - 1] + 1, length=max(end - start, 1))


def _unquoted(text: str) -> str:
    if text.startswith("'"):
        return text[1:-1]
    return _ESCAPE.sub(
        lambda found: _ESCAPED.get(found[1]) or (chr(int(found[1][1:], 16)) if found[1][0] in "uU" else found[1]),
        text[1:-1],
    )
