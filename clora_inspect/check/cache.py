"""Keep the results of checks under `.clora_cache/`: a check of something unchanged builds no model
and imports no torch.

An entry is found by its key, a hash of everything that can change the result. For a plan that is
the model's file, the LoRA, the layout, the overrides, the versions of python and of the packages,
and our own source. An entry is JSON and never code. One that cannot be read, that was stored under
another key, or that this user has not written, counts as missing: the folder is in a repository,
and anybody could put an entry there that makes a failing check pass.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from clora.folders.regular_file import LARGEST_SOURCE, read_regular_file
from clora_inspect.job.job import lora_fields
from clora_inspect.job.versions import versions
from clora_inspect.machine.atomic_file import write_own_file
from clora_inspect.machine.user_key import user_key
from clora_inspect.sources import architectures
from clora_inspect.sources.model_name import HYBRID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.job.job import Job
    from clora_inspect.job.workload import Workload

T = TypeVar("T")

FOLDER = ".clora_cache"
FORMAT = 2
"""Version of the entries' format. It is part of every key."""
LARGEST_ENTRY = 64 * 1024 * 1024
"""Bytes. An entry has some hundred kB at most; a larger file is something else."""
MOST_ENTRIES = 512
"""Number of entries that are kept; the oldest go first. An entry has some hundred kB at most."""

LOOKED_AT = 16
"""Number of further entries that are looked at to find some that may go."""

_ENTRY_NAME = re.compile(r"[0-9a-f]{64}\.json")
_OWN_NAME = re.compile(rf"\.gitignore|{_ENTRY_NAME.pattern}|\..*\.clora-[0-9a-f]{{8}}\.tmp")

NO_INFLUENCE = frozenset(
    {
        "cli",
        "tui",
        "api",
        "formats",
        "graph",
        "page",
        "check",
        "checkpoint",
        "config",
        "snapshot",
        "rules",
        "engines",
        "verify",
        "launch",
        "fit",
    }
)
"""Packages of clora_inspect on which no plan depends: a change in them leaves cached plans valid.

Planning runs two rules, but their findings are taken out of a plan before it is stored.
"""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The content of one file of the cache."""

    format: int = FORMAT
    key: str
    """The key it was stored under, to recognise a file that was copied or renamed."""
    digest: str
    """Keyed digest of key and value. Only who has the user's secret can make it."""
    value: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Cache:
    """The entries of one repository.

    Several processes may use it at once: a file is replaced whole, and two processes that write the
    same key write the same value.
    """

    folder: Path
    callables: bool = False
    """True to keep plans of models made by functions too. Only the file of the function is part
    of their key, not what it imports.
    """

    def get(self, key: str | None, kind: type[T]) -> T | None:
        """Return the value stored under `key`; None when there is no entry that can be read."""
        if key is None:
            return None
        secret = user_key()
        value = _own_value(self._path(key), secret) if secret and self._is_usable() else None
        try:
            return None if value is None else msgspec.json.decode(value, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def put(self, key: str | None, value: object) -> None:
        """Store `value` under `key`. A folder that cannot be written to is no error: the cache only
        saves time.

        Make the key before computing the value. If a file changes in between, the value is then
        stored under a key that nobody will ask for again, instead of a wrong one.
        """
        secret = user_key() if key is not None else None
        if key is None or secret is None or not self._is_usable():
            return
        data = msgspec.json.encode(value)
        entry = Entry(key=key, digest=_digest(secret, key, data), value=msgspec.Raw(data))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The folder ignores itself, so that users need not edit their .gitignore.
            ignore = self.folder / ".gitignore"
            if not os.path.lexists(ignore):
                write_own_file(ignore, b"*\n")
            write_own_file(self._path(key), msgspec.json.encode(entry))
            self._prune(secret)
        except OSError:
            return

    def plan_key(self, job: Job, workload: Workload | None = None) -> str | None:
        """Hash everything that can change the plan of `job`, and what it costs with `workload`;
        None when it must not be kept.
        """
        source = self._source(job.model)
        # A plan depends on the machine where real modules are built, on a CPU or a GPU.
        # Megatron-Bridge's source is in no key.
        if source is None or job.device != "meta" or job.planned_by != "clora":
            return None
        return hashed(
            {
                "job": job.model,
                "source": hashlib.sha256(source).hexdigest(),
                "lora": lora_fields(job.lora),
                "layout": msgspec.to_builtins(job.layout),
                "overrides": dict(job.model_overrides),
                "targets_written": job.targets_written,
                "workload": None if workload is None else msgspec.to_builtins(workload),
                "device": job.device,
                "versions": _versions(),
                "code": _planning_code(),
            }
        )

    def _source(self, model: str) -> bytes | None:
        """Read the file that defines the model; None when no single file does."""
        model = model.removeprefix(HYBRID)
        built_in = architectures.path_of(model)
        path = built_in or Path(model)
        if built_in is None and path.is_dir():
            path /= "config.json"
        if built_in is None and ":" in model:
            # `package.module:function` could be found by importing it, which takes seconds.
            path = Path(model.rpartition(":")[0])
            if not self.callables or path.suffix != ".py":
                return None
        try:
            return read_regular_file(path, LARGEST_SOURCE)
        except OSError:
            return None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _is_usable(self) -> bool:
        """Return whether the folder is a cache. A link may lead to any folder of the user: what it
        leads to must hold nothing else.
        """
        if not self.folder.is_symlink():
            return True
        try:
            return all(_OWN_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        except OSError:
            return False

    def _prune(self, secret: bytes) -> None:
        entries = [path for path in self.folder.iterdir() if _ENTRY_NAME.fullmatch(path.name)]
        too_many = len(entries) - MOST_ENTRIES
        if too_many <= 0:
            return
        # Files of others are left, and do not take long: some of the oldest are looked at.
        for path in sorted(entries, key=_stored_at)[: too_many + LOOKED_AT]:
            if too_many > 0 and _own_value(path, secret) is not None:
                path.unlink(missing_ok=True)
                too_many -= 1


def _digest(secret: bytes, key: str, value: bytes) -> str:
    # A key has no null character, so that key and value cannot be cut in another place.
    return hmac.new(secret, key.encode() + b"\0" + value, hashlib.sha256).hexdigest()


def _own_value(path: Path, secret: bytes) -> bytes | None:
    """Return the value in an entry that this user has stored under the name of the file."""
    if path.is_symlink():
        return None
    try:
        entry = msgspec.json.decode(read_regular_file(path, LARGEST_ENTRY), type=Entry)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    value = bytes(entry.value)
    is_own = hmac.compare_digest(entry.digest.encode(), _digest(secret, entry.key, value).encode())
    return value if is_own and entry.key == path.stem and entry.format == FORMAT else None


def hashed(ingredients: dict[str, Any]) -> str | None:
    """Hash `ingredients`; None when one of them has no JSON form, for example a function among the
    model's overrides: it cannot be compared with the one of the next run.
    """
    try:
        return hashlib.sha256(msgspec.json.encode({"format": FORMAT, **ingredients}, order="deterministic")).hexdigest()
    except TypeError:
        return None


def hash_of_files(paths: Iterable[Path]) -> str:
    """Hash the names and the bytes of `paths`, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        data = read_regular_file(path, LARGEST_SOURCE)
        # The length keeps the end of one file apart from the beginning of the next.
        digest.update(f"{path.name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def planning_source() -> list[Path]:
    """List our files that can change a plan: all of the library, and of the inspector everything
    outside `NO_INFLUENCE`.

    The version of clora-inspect is not enough for a key: in an editable install the code changes
    and the version does not.
    """
    package = Path(__file__).parent.parent
    library = package.parent / "clora"
    ours = (path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in NO_INFLUENCE)
    return sorted([*library.rglob("*.py"), *ours])


def _stored_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        # Another process removed it in the meantime.
        return 0.0


@cache
def _versions() -> dict[str, Any]:
    return dict(versions())


@cache
def _planning_code() -> str:
    return hash_of_files(planning_source())
