"""Temporary folders that are deleted even if their owner was killed: the next run deletes them.

The owner holds a lock on a file in its folder for as long as it lives. The system releases the lock
however the process ends. A process number would not do: another container, with numbers of its own,
may share the temporary folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "clora-inspect-"
"""Beginning of the names of our temporary folders."""

LOCK = ".owner"
"""Name of the file that the owner has locked."""

UNLOCKED_S = 3600.0
"""Age in seconds from which a folder without the file is abandoned. A new one gets it at once."""


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """Make a temporary folder `clora-inspect-KIND-...`, and delete it on exit."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-"))
    lock = _locked(folder)
    try:
        yield folder
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def delete_abandoned() -> None:
    """Delete this user's folders of ours in the temporary folder whose owner is gone. What cannot
    be deleted stays.
    """
    if sys.platform == "win32":
        return
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if not entry.name.startswith(PREFIX) or not entry.is_dir(follow_symlinks=False):
                continue
            with suppress(OSError):
                facts = entry.stat(follow_symlinks=False)
                # Anybody may make a folder of this name in a shared temporary folder.
                if facts.st_uid == os.geteuid() and _is_abandoned(Path(entry.path), facts.st_mtime):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _is_abandoned(folder: Path, changed: float) -> bool:
    import fcntl

    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - changed > UNLOCKED_S
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """Put the locked file into the folder, and return its descriptor."""
    if sys.platform == "win32":
        return None
    import fcntl

    new = folder / f"{LOCK}.new"
    lock = os.open(new, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    # A file system without locks, as some network ones: then the folder stays if we are killed.
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Renamed when it is locked: nobody sees the file without its lock.
    new.rename(folder / LOCK)
    return lock
