"""Run commands in forks of a process that has imported torch and megatron-core already.

    python -P fork_server.py SOCKET

A command connects through the shim that `write_shims` has put on the PATH of a story, which hands
over its arguments, folder, environment and standard files. It runs in a fork of its own and ends
with its own exit status, as a new process would, without the seconds of the imports.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import marshal
import multiprocessing.process
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

SHIM = """\
#!{python} -IS
import marshal, os, socket, sys

name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
if name != "clora-inspect":
    rest = words[2:] if words[:1] == ["-W"] else words
    ours = rest[:2] == ["-m", "clora_inspect"]
    if not ours and not (rest and rest[0].endswith(".py") and os.path.isfile(rest[0])):
        os.execv({python!r}, [{python!r}, *words])
request = marshal.dumps((name, words, os.getcwd(), dict(os.environ)))
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    answer = server.recv(1)
sys.exit(answer[0] if answer else 255)
"""

SHIMS = ("clora-inspect", "python", "python3")


def write_shims(folder: Path, socket_path: Path) -> None:
    """Write programs that ask the server to run what they are called with."""
    for name in SHIMS:
        shim = folder / name
        shim.write_text(SHIM.format(python=sys.executable, socket=str(socket_path)))
        shim.chmod(0o755)


def serve(socket_path: str) -> None:
    """Warm up, say `ready`, and answer until stdin ends."""
    from clora_inspect.cli import main

    with contextlib.redirect_stdout(io.StringIO()):
        if main(("plan", "qwen2.5-0.5b", "--memory", "--isolated")) != 0:
            sys.exit("the first plan failed")
    import torch.distributed.checkpoint
    import torch.distributed.tensor  # noqa: F401

    assert threading.active_count() == 1
    # Children that end are nobody's business here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen(16)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> NoReturn:
    """Run the command in a child; kill it if whoever asked for it is gone."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    rest = int.from_bytes(head, "big")
    request = b""
    while len(request) < rest:
        request += connection.recv(rest - len(request))
    child = os.fork()
    if child == 0:
        os.setsid()
        connection.close()
        _become(files, *marshal.loads(request))
    watched = os.pidfd_open(child)
    readable, _, _ = select.select([watched, connection], [], [])
    if watched not in readable:
        os.killpg(child, signal.SIGKILL)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    connection.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _become(files: list[int], name: str, words: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    # Each line at once, so that the order of both streams is that of a terminal.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    if words[:1] == ["-W"]:
        sys.warnoptions.append(words[1])
        warnings._setoption(words[1])  # what Python does with -W
        words = words[2:]
    try:
        if name == "clora-inspect" or words[:1] == ["-m"]:
            _run_our_command(words if name == "clora-inspect" else words[2:])
        _run_program(words)
        status: Any = 0
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - as Python itself does it
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        sys.stderr.write(f"{status}\n")
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit((status or 0) & 255)


def _run_our_command(words: list[str]) -> NoReturn:
    from clora_inspect.cli import main

    sys.argv = ["clora-inspect", *words]
    sys.exit(main())


def _run_program(words: list[str]) -> None:
    """Run `python FILE WORDS`."""
    path = Path(words[0])
    sys.argv = words
    sys.path.insert(0, str(path.resolve().parent))
    # What `python FILE` has under these names, so that multiprocessing's spawn finds the file.
    multiprocessing.process.ORIGINAL_DIR = str(Path.cwd())
    module = ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    sys.modules["__mp_main__"] = module
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    except Exception as error:  # noqa: BLE001 - Python prints it likewise, without the lines of this file
        traceback.print_exception(error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None))
        sys.exit(1)


if __name__ == "__main__":
    serve(sys.argv[1])
