"""A secret of this user, by which they recognise the files that they have written themselves."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from clora.folders.regular_file import read_regular_file
from clora_inspect.machine.atomic_file import write_new_file

VARIABLE = "CLORA_INSPECT_CACHE_KEY"
"""Environment variable with a secret that several machines share, such as the runners of a CI."""

SHORTEST = 16
"""Characters. A shorter secret can be guessed, and counts as none: so does an empty variable."""

_LENGTH = 32


def user_key() -> bytes | None:
    """Return the secret, which is made when it is first asked for; None if it cannot be kept."""
    shared = os.environ.get(VARIABLE, "")
    if len(shared) >= SHORTEST:
        return hashlib.sha256(shared.encode(errors="surrogateescape")).digest()
    try:
        path = _state_folder() / "cache.key"
        return _read(path) or _made(path)
    except (OSError, RuntimeError):  # nothing can be written there; the user has no home
        return None


def _state_folder() -> Path:
    # By the XDG rules a relative path counts as not set.
    written = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (written if written.is_absolute() else Path.home() / ".local" / "state") / "clora-inspect"


def _read(path: Path) -> bytes | None:
    """Return the secret in the file; None when there is none that only this user can have read."""
    try:
        found = path.lstat()
        data = read_regular_file(path, 1024)
    except FileNotFoundError:
        return None
    return data if _is_private(found) and len(data) == _LENGTH else None


def _is_private(found: os.stat_result) -> bool:
    if sys.platform == "win32":  # a user's own folders are private there
        return stat.S_ISREG(found.st_mode)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _made(path: Path) -> bytes | None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One that others could read or write.
    with suppress(FileNotFoundError):
        path.unlink()
    # Another process may make it at the same moment: then its secret is the one.
    with suppress(FileExistsError):
        write_new_file(path, os.urandom(_LENGTH), mode=0o600)
    return _read(path)
