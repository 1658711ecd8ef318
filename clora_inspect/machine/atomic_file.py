"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, then rename it to `path`.

    Readers see the old file or the new one and never a part. A failure leaves the old file. A
    symbolic link stays one: the file that it points to is replaced. A device or a pipe
    (`/dev/null`, `/dev/stdout`) cannot be replaced and is written to.

    Raises:
        OSError: the file cannot be written.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    # A file of the same folder, because a rename is atomic within one file system only. The name is
    # cut: with the prefix and the suffix a long one would be too long for most file systems.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            # Without it a crash of the machine could leave the new name with an empty file.
            os.fsync(file.fileno())
        temporary.chmod(_mode(path))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """Return the permissions of `path`, or those that a new file would get."""
    if path.exists():
        return path.stat().st_mode & 0o777
    # `mkstemp` makes private files. The umask can only be read by setting it.
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
