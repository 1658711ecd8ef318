"""Every writer of ours, and what can go wrong while it writes.

The old file is what it was, or the new one is whole; nothing is left over; and the exit status is
2. Each fault happens at a step that is chosen, in a process of its own: nothing depends on luck.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clora_inspect.check.cache import Cache
from clora_inspect.cli import main
from clora_inspect.job.plan import Totals
from clora_inspect.machine.atomic_file import write_atomically

if sys.platform != "linux":
    pytest.skip("needs fork, /proc and files without a name", allow_module_level=True)

CONFIGURATION = """
[check]
cache = false
[jobs.one]
model = "llama3-8b"
set.model = { num_layers = 1 }
[jobs.two]
model = "llama3-8b"
set.model = { num_layers = 1 }
"""
TOTALS = Totals(base_params=1, trainable_params=2, placements=3, wrapped_modules=4, linears=5, adapted_linears=6)
KEY = "a" * 64

# Name -> the file that is written, whether it is there before, and the writer.
WRITERS: dict[str, tuple[str, bool, Callable[[], int]]] = {
    "snapshot accept": ("snapshots/one/default.json", True, lambda: main(["snapshot", "accept", "one", "-q"])),
    "snapshot accept of a new job": ("snapshots/two/default.json", False, lambda: main(["snapshot", "accept", "two"])),
    "check": ("snapshots/one/default.json.new", False, lambda: main(["check", "one", "-q", "--exit-zero"])),
    "check --write": (
        "report.json", True, lambda: main(["check", "one", "-q", "--exit-zero", "--no-snapshot", "--write", "json=report.json"]),
    ),
    "check --add-allow": (
        "clora-inspect.toml", True,
        lambda: main(["check", "one", "--no-snapshot", "--fail-on", "info", "--add-allow", "old"]),
    ),
    "plan -o": ("plan.txt", True, lambda: main(["plan", "saved.json", "-o", "plan.txt"])),
    "graph -o": ("graph.mmd", False, lambda: main(["graph", "saved.json", "-o", "graph.mmd", "-f", "mermaid"])),
    "config init": ("new/clora-inspect.toml", False, lambda: main(["-C", "new", "config", "init"])),
    "config schema": ("schema.json", True, lambda: main(["config", "schema", "-o", "schema.json"])),
    # The interface writes pictures, exports and what-if files by this function.
    "the interface": ("picture.svg", True, lambda: write_atomically(Path("picture.svg"), b"<svg/>") or 0),
    "the cache": (f".clora_cache/{KEY}.json", False, lambda: Cache(Path(".clora_cache")).put(KEY, TOTALS) or 0),
}  # fmt: skip

# All use the two functions of machine/atomic_file.py; a night tries each of them.
ALL = [
    pytest.param(name, marks=() if name in ("snapshot accept", "config init", "the cache") else pytest.mark.nightly)
    for name in WRITERS
]

SILENT = {"the cache", "check"}
"""Writers whose failure is no error: a cache saves time, and a check says what it found anyway."""


@pytest.fixture
def folder(saved_plan: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not pytest's folder, which other users cannot enter.
    made = Path(tempfile.mkdtemp(prefix="clora-inspect-test-"))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.chdir(made)
    (made / "clora-inspect.toml").write_text(CONFIGURATION)
    (made / "new").mkdir()
    shutil.copy(saved_plan, made / "saved.json")
    assert main(["snapshot", "accept", "one", "-q"]) == 0
    (made / ".clora_cache").mkdir()
    (made / ".clora_cache/.gitignore").write_bytes(b"*\n")
    # One that has changed since, so that accepting it and a check write something.
    (made / "clora-inspect.toml").write_text(CONFIGURATION.replace("{ num_layers = 1 }\n", "{ num_layers = 2 }\n", 1))
    for name, is_there, _ in WRITERS.values():
        if is_there and not (made / name).exists():
            (made / name).write_text("old")
    yield made
    for path in made.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(made)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_a_child(action: Callable[[], int], output: int | None = None) -> int:
    """Run `action` in a copy of this process; return its exit status, or minus its signal."""
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; the child runs only ours.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 99
        try:
            if output is not None:
                os.dup2(output, 1)
                os.dup2(output, 2)
                sys.stdout = os.fdopen(1, "w", closefd=False)
                sys.stderr = os.fdopen(2, "w", closefd=False)
            status = action()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(descriptor: int, data: bytes) -> int:
    REAL_WRITE(descriptor, data[: len(data) // 2])
    killed()
    return 0


def disk_full(descriptor: int, data: bytes) -> int:
    if len(data) > 1:
        return REAL_WRITE(descriptor, data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


REAL_WRITE, REAL_LINK, REAL_REPLACE = os.write, os.link, Path.replace

KILLS: dict[str, Callable[[], object]] = {
    "half of it is written": lambda: setattr(os, "write", half_written),
    "all is written": lambda: setattr(os, "fsync", lambda _: killed()),
    "it has no name yet": lambda: setattr(os, "link", lambda *_, **__: killed()),
    "it has its first name": lambda: setattr(os, "link", lambda *a, **k: (REAL_LINK(*a, **k), killed())),
    "it has its name": lambda: setattr(Path, "replace", lambda *a: (REAL_REPLACE(*a), killed())),
}
"""Step -> stop the writer there."""


@pytest.mark.parametrize("name", ALL)
def test_a_writer_that_is_killed_at_any_step_loses_nothing(name: str, folder: Path) -> None:
    file, _, write = WRITERS[name]
    before = contents(folder)
    assert in_a_child(write) == 0
    after = contents(folder)
    assert after != before
    assert not [path for path in after if path.endswith(".tmp")]
    for step, hook in KILLS.items():
        for path in after.keys() - before.keys():
            (folder / path).unlink(missing_ok=True)
        for path, data in before.items():
            (folder / path).write_bytes(data)
        # A new file gets its name by a link, and is never renamed.
        status = in_a_child(lambda hook=hook: (hook(), write())[1])
        found = contents(folder)
        left = {path for path in found if path.endswith(".tmp")}
        assert status == -signal.SIGKILL or (step == "it has its name" and name == "config init"), step
        # The file is the old one or the new one. Only between two names is there another file.
        assert found.get(file) in (before.get(file), after[file]), step
        assert len(left) == (step == "it has its first name"), step
        assert {**before, file: b""}.keys() | left | {"snapshots/.gitattributes"} >= found.keys(), step
        assert in_a_child(write) in (0, 2), step
        assert contents(folder) == after, step


def fault_of_disk() -> None:
    os.write = disk_full


def limit_of_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))


def read_only() -> None:
    """Take the right to write, and be a user who has no other."""
    for path in [Path(), *Path().rglob("*")]:
        if path.is_dir():
            path.chmod(0o555)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


FAULTS = {"full disk": fault_of_disk, "limit of files": limit_of_files, "read-only folder": read_only}


@pytest.mark.parametrize("name", ALL)
def test_a_writer_that_cannot_write_says_so_and_loses_nothing(name: str, folder: Path) -> None:
    file, _, write = WRITERS[name]
    # Another user cannot import what is in the home of this one: everything is imported now.
    before = contents(folder)
    write()
    os.chdir(folder)  # `-C` has left it
    after = contents(folder)
    for fault, hook in FAULTS.items():
        for path in after.keys() - before.keys():
            (folder / path).unlink(missing_ok=True)
        for path, data in before.items():
            (folder / path).write_bytes(data)
        # A pipe and not a file, which would have the limit as well.
        reader, writer = os.pipe()
        status = in_a_child(lambda hook=hook: failing(hook, write), writer)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
        assert status == (0 if name in SILENT else 2), (fault, said)
        assert name in SILENT | {"the interface"} or ("cannot be written" in said and Path(file).name in said), fault
        assert contents(folder) == before, fault


def failing(hook: Callable[[], object], write: Callable[[], int]) -> int:
    hook()
    try:
        return write()
    except OSError:  # what the interface gets, and shows
        return 2


@pytest.mark.parametrize("name", ALL)
def test_writers_at_once_leave_a_whole_file(name: str, folder: Path) -> None:
    _, _, write = WRITERS[name]
    before = contents(folder)
    statuses = together([write] * 6)
    assert set(statuses) <= ({0, 2} if name == "config init" else {0})
    assert name != "config init" or statuses.count(0) == 1
    now = contents(folder)
    assert not [path for path in now if path.endswith(".tmp")]
    if name != "check --add-allow":  # each adds an entry of its own
        for path, data in before.items():
            (folder / path).write_bytes(data)
        for path in now.keys() - before.keys():
            (folder / path).unlink(missing_ok=True)
        assert write() == 0
        assert contents(folder) == now


def test_entries_that_are_added_at_once_are_all_kept(folder: Path) -> None:
    words = ["--no-snapshot", "--fail-on", "info", "--add-allow"]
    together([lambda job=job: main(["check", job, *words, f"reason {job}"]) for job in ("one", "two")])
    text = (folder / "clora-inspect.toml").read_text()
    assert "reason one" in text
    assert "reason two" in text
    assert main(["check", "--no-snapshot", "--fail-on", "info", "-q"]) in (0, 1)


def together(actions: list[Callable[[], int]]) -> list[int]:
    """Run `actions` in copies of this process that begin at the same moment."""
    ready, go = os.pipe()

    def waiting(action: Callable[[], int]) -> int:
        os.close(go)
        os.read(ready, 1)
        return action()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        children = []
        for action in actions:
            child = os.fork()
            if child == 0:
                status = 99
                try:
                    status = waiting(action)
                finally:
                    os._exit(status)
            children.append(child)
    os.close(go)
    os.close(ready)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_a_device_without_room(clora_inspect: object, saved_plan: Path) -> None:
    ran = clora_inspect("plan", str(saved_plan), "-o", "/dev/full")  # type: ignore[operator]
    assert ran.status == 2
    assert "/dev/full cannot be written: No space left on device." in ran.err
