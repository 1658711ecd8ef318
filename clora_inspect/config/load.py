"""Load the configuration: the command line beats the environment, which beats the file, which
beats the defaults. The source of every value is kept.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_inspect.config.document import Document, discover, is_too_long, read
from clora_inspect.config.errors import ConfigError, Problem
from clora_inspect.config.key_path import KeyPath, parsed, written
from clora_inspect.config.settings import Settings
from clora_inspect.config.validation import Validator
from clora_inspect.machine.git_repository import repository_of
from clora_inspect.snapshot.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from clora_inspect.job.finding import Location

ENVIRONMENT: dict[str, KeyPath] = {
    "CLORA_INSPECT_SNAPSHOT_DIR": ("snapshots",),
    "CLORA_INSPECT_SELECT": ("check", "select"),
    "CLORA_INSPECT_IGNORE": ("check", "ignore"),
    "CLORA_INSPECT_EXTEND_SELECT": ("check", "extend-select"),
    "CLORA_INSPECT_FAIL_ON": ("check", "fail-on"),
    "CLORA_INSPECT_REQUIRE_SNAPSHOT": ("check", "require-snapshot"),
    "CLORA_INSPECT_VERIFY": ("check", "verify"),
    "CLORA_INSPECT_CACHE": ("check", "cache"),
}
"""Environment variable -> the key that it sets. An empty variable counts as not set."""

_LISTS = frozenset({"select", "ignore", "extend-select"})
_SWITCHES = frozenset({"require-snapshot", "cache"})
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Configuration:
    """The settings in force, and where they came from."""

    settings: Settings
    document: Document
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)
    """Keys that the file did not set: key -> name of the option or the variable that did."""

    @property
    def root(self) -> Path:
        """The folder that paths in the configuration are relative to."""
        return self.document.root

    @property
    def snapshots(self) -> Path:
        return self.root / self.settings.snapshots

    @property
    def store(self) -> Store:
        """The snapshots. A folder that the file names is changed inside its repository only; one
        that an option or a variable names is what the user asked for.
        """
        asked_for = ("snapshots",) in self.overrides
        return Store(self.snapshots, self.root, self.snapshots if asked_for else repository_of(self.root))

    def origin(self, key: KeyPath) -> str:
        """Return where the value of `key` came from.

        It is `pyproject.toml:8`, the name of an option or a variable, or `default`.
        """
        for path, origin in self.overrides.items():
            # An option that sets a table sets all keys below it.
            if key[: len(path)] == path:
                return origin
        if self.document.has(key):
            location = self.document.location(key)
            if location is not None:
                return location.address
        return "default"

    def sets(self, key: KeyPath) -> bool:
        """Return whether the file, an option or a variable sets `key`."""
        if any(key[: len(path)] == path for path in self.overrides):
            return True
        found: Any = self.document.tables
        for part in key:
            if not isinstance(found, dict) or part not in found:
                return False
            found = found[part]
        return True

    def location(self, key: KeyPath) -> Location | None:
        """Return the line that set `key`, or that of the nearest table above it.

        None when an option or a variable set the key, or there is no file.
        """
        if any(key[: len(path)] == path for path in self.overrides):
            return None
        return self.document.location(key)


def load(
    start: Path,
    *,
    config: Sequence[str] = (),
    isolated: bool = False,
    options: Mapping[KeyPath, tuple[str, Any]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """Load the configuration for a command that runs in `start`.

    Args:
        start: the folder where the search for the nearest configuration begins.
        config: values of `--config`: a file, or `KEY=VALUE` with a TOML value. Later ones win.
        isolated: search for no file and read no variables. A file in `config` is read anyway.
        options: keys that options set: key -> name of the option, value.
        environ: the environment; None for that of the process.

    Raises:
        ConfigError: it cannot be read or has mistakes. The message has all of them.
    """
    files = [argument for argument in config if not _is_assignment(argument)]
    # One file is read and not several: settings that are merged from files surprise people.
    if files:
        # A shell leaves the `~` of `--config=~/FILE` as it is, hence `expanduser`.
        document = _file(start / Path(files[-1]).expanduser())
    elif isolated:
        document = Document(root=start.resolve(), path=None)
    else:
        document = discover(start)
    raw = _copied(document.tables)
    overrides: dict[KeyPath, str] = {}
    variables = {} if isolated else _from_environment(os.environ if environ is None else environ)
    assigned = (_assignment(argument) for argument in config if _is_assignment(argument))
    # From the weakest to the strongest.
    for key, origin, value in (
        *((key, origin, value) for key, (origin, value) in variables.items()),
        *((key, "--config", value) for key, value in assigned),
        *((key, origin, value) for key, (origin, value) in (options or {}).items()),
    ):
        _set_key(raw, key, value, origin)
        # A value for a whole table replaces what was set inside it, so its source does as well.
        overrides = {path: name for path, name in overrides.items() if path[: len(key)] != key} | {key: origin}
    return checked(document, raw, overrides)


def checked(document: Document, raw: Mapping[str, Any], overrides: Mapping[KeyPath, str]) -> Configuration:
    """Check `raw`, which is the document with `overrides` applied, and return the configuration.

    Raises:
        ConfigError: `raw` has mistakes. The message has all of them.
    """

    def problem_at(key: KeyPath, of_key: bool, message: str) -> Problem:
        origin = next(
            (f"{origin} {written(key)}" for path, origin in overrides.items() if key[: len(path)] == path), ""
        )
        return Problem(message, None if origin else document.location(key, of_key=of_key), origin)

    validator = Validator(problem_at)
    settings = validator.settings(raw)
    if validator.problems:
        raise ConfigError(_in_order(validator.problems))
    return Configuration(settings, document, overrides)


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by line; those that are in no file come last."""
    return sorted(
        problems, key=lambda problem: (problem.location is None, (problem.location and problem.location.line) or 0)
    )


def _file(path: Path) -> Document:
    document = read(path)
    if document.path is None:
        raise ConfigError(f"{path} has no [tool.clora-inspect]. Write one, or name another file.")
    return document


def _is_assignment(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    # The name of a file may contain "=" too.
    return bool(equals) and parsed(key.strip()) is not None and not Path(argument).is_file()


def _assignment(argument: str) -> tuple[KeyPath, Any]:
    """Parse `check.fail-on="warning"`. A value that is not TOML is a string, so words need no
    quotes.
    """
    name, _, text = argument.partition("=")
    key = parsed(name.strip()) or ()
    if is_too_long(text):
        raise ConfigError(f"--config {written(key)[:80]}: its value has a key of more than 200 names.")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text.strip()
    # An integer of some thousand digits, and deep nesting.
    except (ValueError, RecursionError):
        raise ConfigError(
            f"--config {written(key)[:80]}: the value is too long a number, or nested too deeply."
        ) from None


def _from_environment(environ: Mapping[str, str]) -> dict[KeyPath, tuple[str, Any]]:
    return {
        key: (name, _value_of_variable(name, str(key[-1]), environ[name]))
        for name, key in ENVIRONMENT.items()
        if environ.get(name)
    }


def _value_of_variable(name: str, key: str, text: str) -> Any:
    if key in _LISTS:
        return [item.strip() for item in text.split(",") if item.strip()]
    if key not in _SWITCHES:
        return text
    folded = text.strip().casefold()
    if folded not in _YES | _NO:
        raise ConfigError(f"{name} = {text!r}: it must be 1 or 0.")
    return folded in _YES


def _copied(tables: Any) -> Any:
    """Copy the tables but not their values, so that overrides do not change the document."""
    return {key: _copied(value) for key, value in tables.items()} if isinstance(tables, dict) else tables


def _set_key(raw: dict[str, Any], key: KeyPath, value: Any, origin: str) -> None:
    table: Any = raw
    for part in key[:-1]:
        below = table.setdefault(part, {}) if isinstance(table, dict) and isinstance(part, str) else None
        if not isinstance(below, dict):
            raise ConfigError(f"{origin} {written(key)}: {part} is not a table, so nothing can be set in it.")
        table = below
    last = key[-1]
    if not isinstance(last, str):
        raise ConfigError(f"{origin} {written(key)}: single elements of an array cannot be set. Give the whole array.")
    table[last] = value
