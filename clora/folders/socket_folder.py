"""Let multiprocessing make its sockets where their paths are short enough.

A Unix socket's path has at most 107 bytes. multiprocessing makes one of 31 characters below the
temporary folder, which on clusters is a deep one (`TMPDIR=/scratch/projects/.../job-12345`). From
76 on no manager and no fork server starts. megatron-core writes a checkpoint with a manager, and
says of its end nothing but EOFError, or waits for ever. Python 3.14 does the same by itself.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from multiprocessing import process, util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of a socket's path, without the zero at its end."""

OWN_FOLDER = len("/pymp-12345678")
SOCKET = len("/listener-12345678")

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # a new private folder is made in it


def keep_socket_paths_short(folder: Path | None = None) -> None:
    """Give multiprocessing a folder of its own in `/tmp` if the temporary one has too long a path.

    It is removed when this process ends. Processes that this one starts afterwards use it too.

    Args:
        folder: the temporary folder that these processes will have; None for that of this one.
    """
    if sys.platform == "win32":
        return
    # The place where multiprocessing itself keeps its folder, once it has made one.
    config = process.current_process()._config  # type: ignore[attr-defined]  # noqa: SLF001
    made = config.get("tempdir")
    length = len(os.fsencode(made)) if made else len(os.fsencode(folder or tempfile.gettempdir())) + OWN_FOLDER
    if length + SOCKET <= LONGEST_PATH:
        return
    for base in SHORT_FOLDERS:
        with suppress(OSError):
            short = tempfile.mkdtemp(prefix="pymp-", dir=base)
            util.Finalize(None, shutil.rmtree, args=(short, True), exitpriority=-100)
            config["tempdir"] = short
            return
