"""Plans that were made before, under `.clora_cache/`: a check of what did not change builds no model and imports no torch.

The key of a plan is a hash of everything that can change it: what the model is read from (the bytes of its file), the LoRA, the layout,
the overrides, the versions of python and of the packages, and our own source. What is stored is data: an entry that cannot be read, or that is
another job's, counts as none.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clora_inspect.atomic_file import write_atomically
from clora_inspect.jobplan import JobPlan
from clora_inspect.sources import architectures
from clora_inspect.versions import versions

if TYPE_CHECKING:
    from clora_inspect.job import Job

FOLDER = ".clora_cache"
FORMAT = 1
MOST_ENTRIES = 512
"""Entries kept; the oldest go first. One is some hundred kB at most."""

_LIBRARY = frozenset({"__init__", "canonical_lora", "errors", "fused", "linears", "patterns", "plan", "planner"})
"""Modules of the library that planning imports; a test holds this current. The others adapt models, and no plan depends on them."""

_NO_INFLUENCE = frozenset({"cli", "tui", "formats", "exports", "check", "config", "snapshot", "rules", "verify"})
"""Packages of the inspector that no plan depends on. Findings are not kept with a plan: rules look at it every time."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    format: int = FORMAT
    key: str
    """The key it was stored under: a file that was copied or renamed is not believed."""
    plan: JobPlan


@dataclass(frozen=True, slots=True)
class PlanCache:
    """The plans of one repository. Any number of processes may use it at once: entries are written whole, and equal keys have equal plans."""

    folder: Path
    callables: bool = False
    """Whether models made by functions are kept as well. Only the file of the function is part of their key, not what it imports."""

    def get(self, key: str | None) -> JobPlan | None:
        """The plan that was kept under `key`."""
        if key is None:
            return None
        try:
            entry = msgspec.json.decode(self._path(key).read_bytes(), type=Entry)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return entry.plan if entry.key == key and entry.format == FORMAT else None

    def put(self, key: str | None, plan: JobPlan) -> None:
        """Keep `plan` under a `key` that was made before it was planned: what changed meanwhile has another.

        A folder that cannot be written to is no reason to fail: then nothing is kept.
        """
        if key is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            ignore = self.folder / ".gitignore"
            if not ignore.exists():
                write_atomically(ignore, b"*\n")
            kept = msgspec.structs.replace(plan, findings=())
            write_atomically(self._path(key), msgspec.json.encode(Entry(key=key, plan=kept)))
            self._prune()
        except OSError:
            return

    def key(self, job: Job) -> str | None:
        """The hash of everything that can change the plan of `job`; None for what is not kept."""
        source = self._source(job.model)
        if source is None or job.device != "meta":
            return None
        ingredients = {
            "format": FORMAT,
            "job": job.model,
            "source": hashlib.sha256(source).hexdigest(),
            "lora": {field.name: getattr(job.lora, field.name) for field in dataclasses.fields(job.lora) if field.init},
            "layout": msgspec.to_builtins(job.layout),
            "overrides": dict(job.model_overrides),
            "targets_written": job.targets_written,
            "device": job.device,
            "versions": _versions(),
            "code": _own_source(),
        }
        try:
            return hashlib.sha256(msgspec.json.encode(ingredients, order="deterministic")).hexdigest()
        except TypeError:
            # An override that is no data, such as a function: it has no bytes to be told by.
            return None

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


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@cache
def _versions() -> dict[str, Any]:
    return dict(versions())


@cache
def _own_source() -> str:
    """A hash of the code that plans: this tool's and the library's. An editable install changes without a version."""
    digest = hashlib.sha256()
    for path in planning_source():
        digest.update(f"{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def planning_source() -> list[Path]:
    """The files of ours that can change a plan."""
    own = Path(__file__).parent
    library = own.parent / "clora"
    ours = (path for path in own.rglob("*.py") if path.relative_to(own).parts[0] not in _NO_INFLUENCE)
    return sorted([*(library / f"{name}.py" for name in _LIBRARY), *ours])
