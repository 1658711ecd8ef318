"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clora.folders.regular_file import refuse_file_in_place_of_folder

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_WAIT_S = 10.0
"""Seconds that a writer waits for another one that changes a file in the same folder, or for the
reader of a pipe.
"""
_DESCRIPTOR = re.compile(r"(?:/dev|/proc/self)/fd/(\d{1,6})")
_MOST_LINKS = 40
"""Links that Linux follows in a name before it calls them a loop."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to the file that the user named.

    Readers see the old file or the new one and never a part. A failure leaves the old file. A
    symbolic link stays one: the file that it points to is replaced. A device or a pipe
    (`/dev/null`) cannot be replaced and is written to; what this process has open (`/dev/stdout`)
    gets the data where its next output would go.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor = _open_descriptor(path)
    if descriptor is not None:
        # A rename would replace the file that is open, with all that it holds already.
        _write_all(descriptor, data)
        return
    mode = _mode(path)
    if stat.S_ISFIFO(mode):
        _write_to_reader(path, data)
    elif stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, f"{path.name} is a folder: name a file in it", str(path))
    elif mode and not stat.S_ISREG(mode):
        path.write_bytes(data)
    else:
        _replace(path.resolve(), data)


def write_own_file(path: Path, data: bytes) -> None:
    """Write `data` to a file that the user did not name: a snapshot, or an entry of the cache.

    The same as `write_atomically`, but nothing is written through a symbolic link, to a device or
    to a pipe: somebody else may have put it there.

    Raises:
        OSError: the file cannot be written, or is not a regular file.
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        what = "a symbolic link" if path.is_symlink() else "not a regular file"
        raise OSError(errno.EINVAL, f"it is {what}, which is never written through", str(path))
    _replace(path, data)


def write_new_file(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write `data` to a file that does not exist yet.

    Raises:
        FileExistsError: it exists; it may have been made a moment ago.
        OSError: the file cannot be written.
    """
    with _written_beside(path, data, mode) as temporary:
        # Unlike a rename, a link is refused if the name is taken.
        os.link(temporary, path)
        temporary.unlink()


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block for `folder`, then run it.

    For a change of a file, which reads it and writes it: of two at once one would be lost.

    Raises:
        OSError: another process stays in its block.
    """
    if sys.platform == "win32":
        yield
        return
    # The folder itself is locked, so that no file of a lock is left in it.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + LONGEST_WAIT_S
        while not _locked(descriptor):
            if time.monotonic() > end:
                raise OSError(errno.EAGAIN, "another process is writing in its folder", str(folder))
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _mode(path: Path) -> int:
    """Return the mode of the file at `path`, links followed; 0 where there is none yet."""
    try:
        return path.stat().st_mode
    except ValueError as error:  # a null character
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
        # The writer of the file says why, if it cannot be made.
        return 0


def _open_descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that `path` names, such as `/dev/fd/3`, or None."""
    name = os.path.abspath(path)  # noqa: PTH100 - resolve() would go on to the file that is open
    for _ in range(_MOST_LINKS):
        if found := _DESCRIPTOR.fullmatch(name):
            return int(found[1])
        try:
            target = os.readlink(name)  # noqa: PTH115 - joined to a text
        except (OSError, ValueError):
            return None
        name = os.path.abspath(os.path.join(os.path.dirname(name), target))  # noqa: PTH100, PTH118, PTH120
    return None


def _write_to_reader(pipe: Path, data: bytes) -> None:
    """Write to a named pipe, once a process has opened it to read."""
    end = time.monotonic() + LONGEST_WAIT_S
    while True:
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > end:
                raise OSError(errno.ENXIO, "it is a pipe that no process reads", str(pipe)) from None
            time.sleep(0.05)
    try:
        os.set_blocking(descriptor, True)
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    mode = stat.S_IMODE(path.stat().st_mode) & 0o777 if path.exists() else None
    with _written_beside(path, data, mode) as temporary:
        temporary.replace(path)


@contextmanager
def _written_beside(path: Path, data: bytes, mode: int | None) -> Iterator[Path]:
    """Yield a complete temporary file in the folder of `path`, which the block gives its name.

    It has no name until it is complete, where the file system can do that: a process that is
    killed while it writes leaves nothing. One that is killed between the two names leaves a file,
    which the next writer of the same file removes.
    """
    refuse_file_in_place_of_folder(path.parent)
    _remove_leftovers(path)
    temporary = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}.tmp")
    try:
        descriptor, is_named = _create(temporary)
    except OSError as error:
        # Messages name the file that the user knows.
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        # Held until the file has its name, so that no other writer takes it for a leftover.
        _locked(descriptor)
        _write_all(descriptor, data)
        if mode is not None:
            os.fchmod(descriptor, mode)
        # Without it a crash of the machine could leave the new name with an empty file.
        os.fsync(descriptor)
        if not is_named:
            # Python follows the link to the file only if it is given a folder too. The folder of an
            # absolute path is ignored.
            os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor, follow_symlinks=True)
        yield temporary
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _create(temporary: Path) -> tuple[int, bool]:
    """Open a new file for `temporary`; return its descriptor, and whether it has the name already.

    It has the permissions of every new file. A rename is atomic within one file system only, so it
    is made in the folder that it stays in.
    """
    if sys.platform == "linux" and Path("/proc/self/fd").is_dir():
        # Some file systems, such as NFS, have no files without a name.
        with suppress(OSError):
            return os.open(temporary.parent, os.O_TMPFILE | os.O_WRONLY, 0o666), False
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), True


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _prefix(path: Path) -> str:
    # Cut: with the ending, a long name would be too long for most file systems.
    return f".{path.name[:40]}.clora-"


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    if sys.platform == "win32":
        return
    for leftover in path.parent.glob(f"{_literal(_prefix(path))}????????.tmp"):
        with suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                # A writer that is alive holds the lock.
                if _locked(descriptor):
                    leftover.unlink()
            finally:
                os.close(descriptor)


def _literal(name: str) -> str:
    """Return the pattern that matches only `name`."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _locked(descriptor: int) -> bool:
    """Lock the open file, unless another process has locked it, and return whether it is ours."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
