"""Read a file that anybody may have made: only a regular one, and never more than a limit.

All files that a user names are read here. Opening a pipe would wait for a writer, `/dev/zero` has
no end, and a file of 30 GB would take all memory.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Python closes what it opens in a program that it starts, as O_CLOEXEC asks.
if sys.platform == "win32":
    _FLAGS = os.O_RDONLY | os.O_BINARY
else:
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it. Without O_NOCTTY,
    # opening a terminal could make it the one that controls this process.
    _FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY

LARGEST_SOURCE = 64 * 1024 * 1024
"""Bytes. A limit for files of source code, which have a few thousand."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def read_regular_file(path: Path, limit: int) -> bytes:
    """Return the content of the file at `path`; at most `limit` bytes are read into memory.

    Raises:
        OSError: the file cannot be read, is not regular, or has more than `limit` bytes. `strerror`
            says which, in words that follow "cannot be read: ".
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and the limit is {limit:,}", str(path))
        data = file.read(size + 1)
        # A file may grow meanwhile, and those of /proc say that they are empty.
        if len(data) > size:
            data += file.read(limit - size)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more bytes than the limit of {limit:,}", str(path))
    return data


def read_beginning(path: Path, length: int) -> bytes:
    """Return the first `length` bytes of the file at `path`, or fewer if it is shorter.

    Raises:
        OSError: the file cannot be read, or is not regular.
    """
    with _opened(path) as file:
        return file.read(length)


def read_part(path: Path, offset: int, length: int) -> bytes:
    """Return `length` bytes of the file at `path` from `offset` on, or fewer if it ends before.

    Raises:
        OSError: the file cannot be read, or is not regular.
    """
    with _opened(path) as file:
        file.seek(offset)
        return file.read(length)


def read_end(path: Path, length: int) -> bytes:
    """Return the last `length` bytes of the file at `path`, or fewer if it is shorter.

    Raises:
        OSError: the file cannot be read, or is not regular.
    """
    with _opened(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - length))
        return file.read(length)


def require_regular_file(path: Path) -> None:
    """Raise unless `path` is a regular file that can be opened; for a library that opens it itself.

    Raises:
        OSError: the file cannot be read, or is not regular.
    """
    with _opened(path):
        return


def refuse_file_in_place_of_folder(folder: Path) -> None:
    """Raise if `folder`, or a folder above it, is a file.

    Raises:
        NotADirectoryError: `strerror` names the file.
    """
    for each in (folder, *folder.parents):
        if each.exists():
            if not each.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{each} is a file, not a folder", str(folder))
            return


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, _FLAGS)
    except NotADirectoryError:
        refuse_file_in_place_of_folder(path.parent)
        raise
    except ValueError:
        # A null character, or a character that no name of a file can hold.
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from None
    try:
        # The open file is asked and not its name, which could be another file by now.
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)
