"""A folder of its own, and a shell in it that runs the commands of one story in their order."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

ROOT = Path(__file__).parents[2]

# Each command is read up to a zero byte and evaluated in this shell, so that `cd`, variables and
# `$?` are what the next one expects. File 8 gets the exit statuses. No command has a stdin.
_LOOP = r"""
# In columns, as on a terminal.
ls() { command ls -C "$@"; }
last=0
while IFS= read -r -d '' -u 9 command; do
    (exit $last)
    eval "$command" </dev/null >>"$1" 2>&1 8>&- 9<&-
    last=$?
    printf '%s %s\0' $last "$PWD" >&8
done
"""

# What a story's environment has of ours. All other variables could change what is printed.
_KEPT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PYTHONPATH", "VIRTUAL_ENV", "PROJECT")


@dataclass(frozen=True)
class Ran:
    """Exit status of a command, and what it wrote to stdout and stderr."""

    status: int
    output: str


class Shell:
    """`with Shell(folder, programs) as shell: shell.run("ls")`; `programs` stands first in PATH.

    `shell.folder` is the current folder, which `cd` changes.
    """

    def __init__(self, folder: Path, programs: Path | None, *, in_repository: bool = False) -> None:
        self._everything = folder
        self.folder = folder / "story"
        self._home = folder / "home"
        self._output = folder / "output"
        self._programs = programs
        self._in_repository = in_repository

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True)
        # Short, as a reader's: sockets in it have paths of at most 107 bytes.
        self._temporary = mkdtemp(prefix="story-")
        (self._home / ".gitconfig").write_text(
            "[user]\nname = Reader\nemail = reader@example.com\n[init]\ndefaultBranch = main\n"
        )
        if self._in_repository:
            copy_of_the_repository(self.folder)
        else:
            self.folder.mkdir()
        commands, self._commands = os.pipe()
        self._statuses, statuses = os.pipe()
        self._bash = subprocess.Popen(
            [
                "bash",
                "--noprofile",
                "--norc",
                "-c",
                f"exec 9<&{commands} 8>&{statuses}\n{_LOOP}",
                "bash",
                str(self._output),
            ],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            pass_fds=(commands, statuses),
            start_new_session=True,
        )
        os.close(commands)
        os.close(statuses)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        os.close(self._commands)
        os.close(self._statuses)
        shutil.rmtree(self._everything, ignore_errors=True)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def run(self, command: str, timeout: float) -> Ran:
        """Run a command; raise `TimeoutError` after so many seconds."""
        self._output.write_bytes(b"")
        os.write(self._commands, command.encode() + b"\0")
        if not select.select([self._statuses], [], [], timeout)[0]:
            raise TimeoutError(f"not done after {timeout:.0f} s: {command}\n{self._read_output()}")
        answer = os.read(self._statuses, 8192)
        if not answer:
            raise RuntimeError(f"the shell itself ended: {command}\n{self._read_output()}")
        status, _, where = answer.decode().removesuffix("\0").partition(" ")
        self.folder = Path(where)
        return Ran(int(status), self._read_output())

    def _read_output(self) -> str:
        return self._output.read_bytes().decode("utf-8", "backslashreplace")

    def _environment(self) -> dict[str, str]:
        programs = [] if self._programs is None else [str(self._programs)]
        path = [*programs, str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        nowhere = "http://127.0.0.1:9"
        return {name: os.environ[name] for name in _KEPT if name in os.environ} | {
            "PATH": os.pathsep.join(path),
            "HOME": str(self._home),
            "TMPDIR": self._temporary,
            "COLUMNS": "100",
            "NO_COLOR": "1",
            # Local ranks of `verify` share the cores with other tests.
            "CLORA_INSPECT_TIMEOUT": "1200",
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HF_HUB_OFFLINE": "1",
            "http_proxy": nowhere,
            "https_proxy": nowhere,
        }


def copy_of_the_repository(folder: Path) -> None:
    """Copy the files that git tracks, as they are here, and commit them in a new repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=Reader", "-c", "user.email=reader@example.com"]
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "The repository"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
