"""Files that anybody may have made are read by one function, which refuses what has no end."""

from __future__ import annotations

import ast
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import clora
import clora_inspect
from clora.folders.regular_file import read_beginning, read_end, read_regular_file, require_regular_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 1000


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(30_000_000_000)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # The path of a socket has at most a hundred characters.
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "it is a pipe, not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a regular file"),
    "folder": (lambda path: path.mkdir(), "it is a folder, not a regular file"),
    "socket": (listening, "No such device or address"),
    "loop": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "missing": (lambda _path: None, "No such file or directory"),
    "30 GB": (sparse, "it has 30,000,000,000 bytes, and the limit is 1,000"),
    "one too many": (lambda path: path.write_bytes(bytes(LIMIT + 1)), "it has 1,001 bytes, and the limit is 1,000"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_a_regular_file_of_bounded_size_is_refused(kind: str, tmp_path: Path) -> None:
    make, words = REFUSED[kind]
    path = tmp_path / "file"
    make(path)
    with pytest.raises(OSError, match=words):
        read_regular_file(path, LIMIT)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have_is_an_error_of_the_file(name: str) -> None:
    with pytest.raises(OSError, match="no file can have this name"):
        read_regular_file(Path(name), LIMIT)


def test_a_file_that_says_it_is_empty_is_bounded_too() -> None:
    path = Path("/proc/self/status")
    if not path.exists():
        pytest.skip("no /proc here")
    with pytest.raises(OSError, match="it has more bytes than the limit of 20"):
        read_regular_file(path, 20)
    assert b"Pid:" in read_regular_file(path, 1_000_000)


def test_a_file_up_to_the_limit_is_read_whole(tmp_path: Path) -> None:
    data = bytes(range(250)) * 4
    (tmp_path / "file").write_bytes(data)
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        path = tmp_path / name
        assert read_regular_file(path, LIMIT) == data
        assert read_beginning(path, 3) == data[:3]
        assert read_end(path, 3) == data[-3:]
        assert read_end(path, 5000) == data


@pytest.mark.parametrize(
    "read", [lambda path: read_beginning(path, 9), lambda path: read_end(path, 9), require_regular_file]
)
def test_the_other_readers_do_not_wait_for_a_pipe(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file")
    with pytest.raises(OSError, match="it is a pipe"):
        read(tmp_path / "file")


READING = {"open", "read_text", "read_bytes", "fdopen", "safe_open", "load_file", "memmap", "fromfile", "mmap"}
"""Last names of functions that read a file, or open one."""

LOADING = {"json", "tomllib", "tomlkit", "pickle", "marshal", "yaml", "torch", "np", "numpy", "dist_checkpointing"}
"""Packages whose `load` reads a file."""

ELSEWHERE = {
    "clora/folders/regular_file.py: open": "the function itself",
    "clora/folders/regular_file.py: fdopen": "the function itself",
    "clora/folders/hf_folder.py: safe_open": "maps the file into memory, after require_regular_file",
    "clora/adapter_checkpoint.py: dist_checkpointing.load": "megatron-core opens the files, after read_tensors looked at each",
    "clora_inspect/verify/model/weights.py: dist_checkpointing.load": "megatron-core opens the files, after read_tensors looked at each",
    "clora_inspect/virtual/processes.py: torch.load": "what another rank sent, in memory",
    "clora_inspect/virtual/processes.py: open": "writes the log of a rank",
    "clora_inspect/verify/implementation/bridge.py: dist_checkpointing.load": "what this run has saved",
    "clora_inspect/cli/stdio/progress.py: fdopen": "writes to the terminal",
    "clora_inspect/machine/atomic_file.py: open": "writes",
    "clora_inspect/cli/stdio/step_summary.py: open": "writes",
    "clora_inspect/cli/stdio/step_summary.py: fdopen": "writes",
    "clora_inspect/cli/stdio/failure.py: open": "writes to /dev/null",
    "clora_inspect/cli/stdio/standard_files.py: open": "/dev/null, in place of a standard file that is closed",
    "clora_inspect/machine/temporary.py: open": "locks a file in a folder of ours, and reads nothing",
    "clora_inspect/tui/job/child_process.py: open": "/dev/null, the input of a child",
    "clora_inspect/sources/run/yaml_reader.py: yaml.load": "text that is read already, by a safe loader",
    "clora_inspect/engines/__init__.py: read_bytes": "our own data, which may be inside a zip file",
    "clora/folders/checkpoint_tensors.py: torch.load": "bytes of a bounded number that are read already, tensors only",
    "clora_inspect/machine/child.py: open": "/dev/tty, to give a child the terminal",
    "clora_inspect/page/document.py: read_text": "our own style and script",
    "clora_inspect/virtual/census/offered.py: read_text": "our own source",
    "clora_inspect/virtual/census/verdict.py: read_text": "our own source",
}
"""Module and call -> why it needs no limit."""


def reading_calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            ours = name == "open" and owner in ("self", "self.session")
            if (name in READING and not ours) or (name == "load" and owner in LOADING):
                yield f"{owner}.load" if name == "load" else name


def test_no_other_module_opens_files_for_reading() -> None:
    found = set()
    for package in (clora, clora_inspect):
        folder = Path(package.__file__).parent
        for path in folder.rglob("*.py"):
            name = path.relative_to(folder.parent).as_posix()
            # The stand-ins have functions of the originals' names.
            if not name.startswith("clora_inspect/virtual/transformer_engine"):
                found |= {f"{name}: {call}" for call in reading_calls(path)}
    assert found == set(ELSEWHERE)
