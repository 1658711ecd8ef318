"""Every writer of ours, and what can go wrong while it writes.

The old file is what it was, or the new one is whole; nothing is left over; and the exit status says
whose fault it is. Each fault happens at a step that is chosen, in a process of its own: nothing
depends on luck.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clora.folders.new_folder import UnfinishedFolder
from clora_inspect.check.cache import Cache
from clora_inspect.cli import main
from clora_inspect.job.layout import Layout
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
        # A full disk is the machine's fault. The interface shows the error, whatever it is.
        failed = 3 if fault == "full disk" and name != "the interface" else 2
        assert status == (0 if name in SILENT else failed), (fault, said)
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
    assert ran.status == 3  # it is the machine's, and no mistake in what was typed
    assert "/dev/full cannot be written: No space left on device." in ran.err


def export_adapter() -> int:
    import torch

    from clora.errors import HFAdapterError
    from clora.folders.hf_folder import FactorPair, write_folder

    pairs = {f"model.layers.{n}.self_attn.q_proj": FactorPair(torch.ones(4, 8), torch.ones(8, 4), 8) for n in (0, 1)}
    try:
        write_folder(Path("runs/adapter"), pairs, base_model="", dropout=0.0)
    except HFAdapterError as error:
        sys.stdout.write(str(error))
        return 2
    return 0


def save_checkpoint() -> int:
    tests = Path(__file__).parents[1]
    sys.path[:0] = [str(tests / "clora"), str(tests / "clora_inspect/virtual")]
    import hf_tiny
    import lora_models

    from clora import CanonicalLoRA, CheckpointError, save_adapters

    with hf_tiny.one_rank():
        (model,) = lora_models.build("gqa", Layout())
        CanonicalLoRA(target_modules=["linear_proj"], dim=4)(model)
        try:
            save_adapters(model, "runs/adapter")
        except CheckpointError as error:
            sys.stdout.write(str(error))
            return 2
    return 0


def killed_after(owner: object, name: str) -> None:
    plain = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: (plain(*a, **k), killed()))


def killed_before(owner: object, name: str) -> None:
    setattr(owner, name, lambda *_, **__: killed())


def half_of_the_weights() -> None:
    import safetensors.torch

    def save_file(_tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        killed()

    safetensors.torch.save_file = save_file  # type: ignore[assignment]


def before_the_tensors() -> None:
    from clora import adapter_checkpoint

    killed_after(adapter_checkpoint, "make_unfinished")


def before_the_scales() -> None:
    from clora import adapter_checkpoint

    killed_before(adapter_checkpoint, "write_scales")


# Name -> the writer of a folder, and where it is killed.
FOLDER_WRITERS: dict[str, tuple[Callable[[], int], dict[str, Callable[[], object]]]] = {
    "export_hf": (
        export_adapter,
        {
            "the folder is made": lambda: killed_before(Path, "write_bytes"),
            "the config is written": lambda: killed_after(Path, "write_bytes"),
            "half of the weights is written": half_of_the_weights,
            "all is written": lambda: killed_before(UnfinishedFolder, "complete"),
            "it has its name": lambda: killed_after(UnfinishedFolder, "complete"),
        },
    ),
    "save_adapters": (
        save_checkpoint,
        {
            "the folder is made": before_the_tensors,
            "the tensors are written": before_the_scales,
            "it has its name": lambda: killed_after(UnfinishedFolder, "complete"),
        },
    ),
}
# megatron-core starts a process for each save, which imports torch.
FOLDERS = ["export_hf", pytest.param("save_adapters", marks=pytest.mark.nightly)]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_writer_of_a_folder_that_is_killed_leaves_all_or_nothing(name: str, bare_folder: Path) -> None:
    """A folder of another name is left, and nobody deletes it: on storage that nodes share, nobody
    can tell whether its writer is alive on another node.
    """
    write, kills = FOLDER_WRITERS[name]
    assert in_a_child(write) == 0
    whole = contents(bare_folder)
    for step, hook in kills.items():
        shutil.rmtree(bare_folder / "runs")
        assert in_a_child(lambda hook=hook: (hook(), write())[1]) == -signal.SIGKILL, step
        found = [path.name for path in (bare_folder / "runs").iterdir()]
        if step == "it has its name":
            assert found == ["adapter"], step
            assert contents(bare_folder).keys() == whole.keys(), step
            continue
        assert len(found) == 1, step
        assert re.fullmatch(r"adapter\.[0-9a-f]{8}\.unfinished", found[0]), step
        # It is in nobody's way, and stays.
        assert in_a_child(write) == 0, step
        assert sorted(path.name for path in (bare_folder / "runs").iterdir()) == ["adapter", *found], step


@pytest.mark.parametrize("name", FOLDERS)
def test_a_writer_of_a_folder_that_cannot_write_leaves_nothing(name: str, bare_folder: Path) -> None:
    write, _ = FOLDER_WRITERS[name]
    # Another user cannot import what is in the home of this one: everything is imported now.
    assert name != "export_hf" or write() == 0
    shutil.rmtree(bare_folder / "runs", ignore_errors=True)
    for fault, hook in {"limit of files": limit_of_files, "read-only folder": read_only}.items():
        if name == "save_adapters" and fault == "read-only folder":
            continue  # its test as another user is in tests/clora/folders/test_new_folder.py
        reader, writer = os.pipe()
        status = in_a_child(lambda hook=hook: (hook(), write())[1], writer)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        bare_folder.chmod(0o755)
        assert status == 2, (fault, said)
        assert "runs/adapter cannot be written: " in said, fault
        assert "Traceback" not in said
        assert list(bare_folder.iterdir()) == [], fault


@pytest.fixture
def bare_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Imported once, and not by each child.
    importlib.import_module("clora.folders.hf_folder")
    importlib.import_module("safetensors.torch")
    made = Path(tempfile.mkdtemp(prefix="clora-inspect-test-"))
    monkeypatch.chdir(made)
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)
