"""What was computed before, under `.clora_cache/`: a check of what did not change builds no model
and imports no torch.

The key of a plan is a hash of everything that can change it: what the model is read from (the bytes
of its file), the LoRA, the layout, the overrides, the versions of python and of the packages, and
our own source. What is stored is data: an entry that cannot be read, or that is another job's,
counts as none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from clora_inspect.job.job import lora_fields
from clora_inspect.job.versions import versions
from clora_inspect.machine.atomic_file import write_atomically
from clora_inspect.sources import architectures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.job.job import Job

T = TypeVar("T")

FOLDER = ".clora_cache"
FORMAT = 1
MOST_ENTRIES = 512
"""Entries kept; the oldest go first. One is some hundred kB at most."""

_NO_INFLUENCE = frozenset({"cli", "tui", "formats", "graph", "check", "config", "snapshot", "rules", "verify"})
"""Packages of the inspector that no plan depends on. Findings are not kept with a plan: rules look
at it every time.
"""


class Entry(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One file."""

    format: int = FORMAT
    key: str
    """The key it was stored under: a file that was copied or renamed is not believed."""
    value: T


@dataclass(frozen=True, slots=True)
class Cache:
    """The entries of one repository. Any number of processes may use it at once: entries are
    written whole, and equal keys have equal values.
    """

    folder: Path
    callables: bool = False
    """Whether plans of models made by functions are kept as well. Only the file of the function is
    part of their key, not what it imports.
    """

    def get(self, key: str | None, kind: type[T]) -> T | None:
        """What was kept under `key`; None when nothing was, or the entry cannot be read."""
        if key is None:
            return None
        try:
            entry = msgspec.json.decode(self._path(key).read_bytes(), type=Entry[kind])  # type: ignore[valid-type]
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        value: T = entry.value
        return value if entry.key == key and entry.format == FORMAT else None

    def put(self, key: str | None, value: object) -> None:
        """Keep `value` under a `key` that was made before it was computed: what changed meanwhile
        has another.

        A folder that cannot be written to is no reason to fail: then nothing is kept.
        """
        if key is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            ignore = self.folder / ".gitignore"
            if not ignore.exists():
                write_atomically(ignore, b"*\n")
            write_atomically(self._path(key), msgspec.json.encode(Entry(key=key, value=value)))
            self._prune()
        except OSError:
            return

    def plan_key(self, job: Job) -> str | None:
        """The hash of everything that can change the plan of `job`; None for what is not kept."""
        source = self._source(job.model)
        if source is None or job.device != "meta":
            return None
        return hashed(
            {
                "job": job.model,
                "source": hashlib.sha256(source).hexdigest(),
                "lora": lora_fields(job.lora),
                "layout": msgspec.to_builtins(job.layout),
                "overrides": dict(job.model_overrides),
                "targets_written": job.targets_written,
                "device": job.device,
                "versions": _versions(),
                "code": _planning_code(),
            }
        )

    def _source(self, model: str) -> bytes | None:
        """The bytes that the model is made of."""
        built_in = architectures.path_of(model)
        path = built_in or Path(model)
        if built_in is None and path.is_dir():
            path /= "config.json"
        if built_in is None and ":" in model:
            path = Path(model.rpartition(":")[0])
            if not self.callables or path.suffix != ".py":
                return None
        try:
            return path.read_bytes()
        except OSError:
            return None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _prune(self) -> None:
        entries = list(self.folder.glob("*.json"))
        if len(entries) <= MOST_ENTRIES:
            return
        for path in sorted(entries, key=_age)[: len(entries) - MOST_ENTRIES]:
            path.unlink(missing_ok=True)


def hashed(ingredients: dict[str, Any]) -> str | None:
    """A key made of `ingredients`; None when one of them is no data, such as a function: it has no
    bytes to be told by.
    """
    try:
        return hashlib.sha256(msgspec.json.encode({"format": FORMAT, **ingredients}, order="deterministic")).hexdigest()
    except TypeError:
        return None


def hash_of_files(paths: Iterable[Path]) -> str:
    """A hash of the names and the bytes of `paths`."""
    digest = hashlib.sha256()
    for path in paths:
        data = path.read_bytes()
        digest.update(f"{path.name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def planning_source() -> list[Path]:
    """The files of ours that can change a plan. An editable install changes without a version."""
    own = Path(__file__).parent.parent
    library = own.parent / "clora"
    ours = (path for path in own.rglob("*.py") if path.relative_to(own).parts[0] not in _NO_INFLUENCE)
    return sorted([*library.glob("*.py"), *ours])


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@cache
def _versions() -> dict[str, Any]:
    return dict(versions())


@cache
def _planning_code() -> str:
    return hash_of_files(planning_source())
