"""`CensusReport`: what a tree asks for, gathered by name, as frozen data for both formats."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from clora.folders.regular_file import LARGEST_SOURCE, read_regular_file
from clora_inspect.virtual.census import offered
from clora_inspect.virtual.census.core_tree import files_of
from clora_inspect.virtual.census.reading import Reading, read
from clora_inspect.virtual.census.verdict import Guard, Verdicts, is_of_tree

if TYPE_CHECKING:
    from pathlib import Path

    from clora_inspect.virtual.census.core_tree import CoreFile

SCHEMA = 1


class Place(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A line that asks for a name."""

    file: str
    line: int
    guard: Guard


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """A name of another package that the tree asks for."""

    name: str
    has: bool
    """Whether the virtual world has it."""
    places: tuple[Place, ...]

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def unguarded(self) -> tuple[Place, ...]:
        """The places at which megatron-core cannot be imported without the name."""
        return tuple(place for place in self.places if place.guard is Guard.NONE)

    @property
    def is_gap(self) -> bool:
        """True if the name stops megatron-core from being imported in the virtual world."""
        return not self.has and bool(self.unguarded)


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """A file that this Python cannot parse."""

    file: str
    reason: str


class CensusReport(msgspec.Struct, frozen=True, kw_only=True):
    """The census of one tree."""

    schema_version: int = msgspec.field(default=SCHEMA, name="schema")
    release: str
    """megatron-core's version as its `package_info.py` says it; empty if it says none."""
    files: int
    names: tuple[Name, ...]
    """In alphabetical order. Of packages that clora-inspect requires, such as torch, there are
    none.
    """
    unread: tuple[Unread, ...]

    @property
    def gaps(self) -> tuple[Name, ...]:
        return tuple(name for name in self.names if name.is_gap)

    @property
    def is_clean(self) -> bool:
        return not self.gaps and not self.unread


def take_census(path: Path) -> CensusReport:
    """Return what the tree at `path` asks of other packages.

    Raises:
        NotACoreTreeError: `path` is no source tree of megatron-core.
    """
    files = files_of(path)
    readings: dict[str, Reading] = {}
    unread: list[Unread] = []
    for file in files:
        if file.is_compiled:
            readings[file.module] = Reading()
            continue
        try:
            readings[file.module] = read(file, read_regular_file(file.path, LARGEST_SOURCE))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            unread.append(Unread(file=file.shown, reason=_reason(error)))
    shown = {file.module: file.shown for file in files}
    failed = {file.file for file in unread}
    verdicts = Verdicts(readings, (module for module, name in shown.items() if name in failed))
    return CensusReport(
        release=_release(files),
        files=len(files),
        names=_names(readings, verdicts, shown),
        unread=tuple(unread),
    )


def without_names_of(report: CensusReport, older: CensusReport) -> CensusReport:
    """Return the report without the names that `older` has too, asked for and guarded alike."""
    known = {(name.name, name.is_gap) for name in older.names}
    names = tuple(name for name in report.names if (name.name, name.is_gap) not in known)
    return msgspec.structs.replace(report, names=names)


def _names(readings: dict[str, Reading], verdicts: Verdicts, shown: dict[str, str]) -> tuple[Name, ...]:
    places: defaultdict[str, set[Place]] = defaultdict(set)
    missing: dict[str, bool] = {}
    for module, reading in readings.items():
        for ask in reading.asks:
            is_missing = verdicts.is_missing(module, ask)
            name = offered.full_name(ask.module, ask.name)
            if is_of_tree(ask.module):
                # Modules of the tree itself are named only if they are not there, or hidden.
                if not verdicts.is_absent(module, ask.module):
                    continue
                name = ask.module
            elif not offered.is_stand_in(ask.module) and not is_missing:
                continue
            places[name].add(Place(file=shown[module], line=ask.line, guard=verdicts.guard(module, ask)))
            missing[name] = is_missing
    return tuple(Name(name=name, has=not missing[name], places=tuple(sorted(places[name]))) for name in sorted(places))


def _release(files: list[CoreFile]) -> str:
    for file in files:
        if file.module == "megatron.core.package_info":
            try:
                return _version_in(ast.parse(read_regular_file(file.path, LARGEST_SOURCE)))
            except (OSError, SyntaxError, ValueError):
                return ""
    return ""


def _version_in(code: ast.Module) -> str:
    said = {
        node.targets[0].id: node.value.value
        for node in code.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    numbers = [str(said[part]) for part in ("MAJOR", "MINOR", "PATCH") if part in said]
    return ".".join(numbers) + str(said.get("PRE_RELEASE", "")) if len(numbers) == 3 else ""


def _reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        return f"{python} cannot parse it: line {error.lineno}: {error.msg}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, (RecursionError, MemoryError)):
        # From Python 3.12 the parser's MemoryError has a message of its own.
        return f"it is nested too deeply to be parsed ({type(error).__name__})"
    return str(error)
