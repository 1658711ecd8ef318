"""The folder of snapshots: accepted in `JOB/LAYOUT.json`, pending in `JOB/LAYOUT.json.new`."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.folders.regular_file import read_regular_file, refuse_file_in_place_of_folder
from clora_inspect.machine.atomic_file import write_own_file
from clora_inspect.snapshot import record
from clora_inspect.snapshot.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from clora_inspect.snapshot.record import Snapshot

PENDING = ".json.new"
"""Ending of a file that waits to be reviewed."""

ATTRIBUTES = b"""# Snapshots are text that people review: the same line ends everywhere, and shown in pull requests.
* text eol=lf linguist-generated=false
"""
"""Content of the folder's `.gitattributes`."""

IGNORED = b"""# What waits to be reviewed stays on the machine that made it.
*.json.new
"""
"""Content of the folder's `.gitignore`."""


@dataclass(frozen=True, slots=True)
class Store:
    """The snapshots of one repository."""

    folder: Path
    root: Path
    """The folder to which paths in messages are relative."""
    within: Path | None = None
    """The folder in which files may be written and deleted, `folder` or one above it. A repository
    that somebody else has written must not name a folder outside of itself. None for `folder`.
    """

    def path(self, job: str, layout: str) -> Path:
        """Return the file of the accepted snapshot, whether it exists or not."""
        return self.folder / job / f"{layout}.json"

    def pending_path(self, job: str, layout: str) -> Path:
        """Return the file of the snapshot that waits to be reviewed, whether it exists or not."""
        return self.folder / job / f"{layout}{PENDING}"

    def name(self, path: Path) -> str:
        """Return `path` as messages show it."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return path.as_posix()

    def read(self, job: str, layout: str) -> Snapshot | None:
        """Read the accepted snapshot; None if there is none.

        Raises:
            SnapshotError: the file cannot be used.
        """
        return self._read(self.path(job, layout))

    def read_pending(self, job: str, layout: str) -> Snapshot | None:
        """Read the snapshot that waits to be reviewed; None if there is none.

        Raises:
            SnapshotError: the file cannot be used.
        """
        return self._read(self.pending_path(job, layout))

    def may_delete(self, path: Path) -> bool:
        """Return whether `path` is a file of ours: a snapshot, damaged or not, in a folder that may
        be changed, and no symbolic link.
        """
        if _is_link(path) or not self._is_within(path):
            return False
        try:
            return record.was_written_by_us(read_regular_file(path, record.LARGEST_FILE))
        except OSError:
            return False

    def accept(self, job: str, layout: str, snapshot: Snapshot) -> Path:
        """Write `snapshot` as the accepted one, drop the pending one, and return the path.

        Raises:
            SnapshotError: the file cannot be written, or another file has its name.
        """
        path = self.path(job, layout)
        # In this order, so that a failure to write leaves the pending snapshot.
        self._write(path, snapshot)
        self.reject(job, layout)
        return path

    def offer(self, job: str, layout: str, snapshot: Snapshot) -> Path:
        """Write `snapshot` as the one that waits to be reviewed, and return the path.

        Raises:
            SnapshotError: the file cannot be written, or another file has its name.
        """
        path = self.pending_path(job, layout)
        self._write(path, snapshot)
        return path

    def reject(self, job: str, layout: str) -> None:
        """Delete the pending snapshot, if there is one.

        Raises:
            SnapshotError: it cannot be deleted.
        """
        self._delete(self.pending_path(job, layout))

    def remove(self, job: str, layout: str) -> None:
        """Delete both snapshots, and the job's folder if that leaves it empty.

        Raises:
            SnapshotError: one cannot be deleted.
        """
        self._delete(self.path(job, layout))
        self.reject(job, layout)
        folder = self.folder / job
        if not folder.is_symlink():
            # Another file in it keeps the folder.
            with suppress(OSError):
                folder.rmdir()

    def accept_command(self, job: str) -> str:
        """Return the command that accepts `job` as it is now."""
        command = f"clora-inspect snapshot accept {job}"
        return (
            command
            if self._is_within(self.folder / job)
            else f"{command} --snapshot-dir {shlex.quote(str(self.folder))}"
        )

    def require_within(self) -> None:
        """Raise unless the folder may be changed.

        Raises:
            SnapshotError: it is outside of the repository, and nobody has named it.
        """
        if not self._is_within(self.folder / "any"):
            raise SnapshotError(self._outside(self.folder))

    def kept(self) -> list[tuple[str, str]]:
        """Return job and layout of every accepted snapshot, sorted."""
        return sorted(self._found(".json"))

    def pending(self) -> list[tuple[str, str]]:
        """Return job and layout of every pending snapshot, sorted."""
        return sorted(self._found(PENDING))

    def _found(self, ending: str) -> Iterator[tuple[str, str]]:
        for path in self.folder.glob(f"*/*{ending}"):
            if path.is_file():
                yield path.parent.name, path.name.removesuffix(ending)

    def _read(self, path: Path) -> Snapshot | None:
        try:
            data = read_regular_file(path, record.LARGEST_FILE)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnapshotError(f"{self.name(path)} cannot be read: {error.strerror or error}.") from None
        if not record.was_written_by_us(data):
            raise SnapshotError(
                f"{self.name(path)} is damaged, or no snapshot. Restore it from the repository's history, or move it "
                f"away, then: clora-inspect snapshot accept {path.parent.name}"
            )
        return record.decode(data, self.name(path))

    def _write(self, path: Path, snapshot: Snapshot) -> None:
        data = record.encode(snapshot)
        # A file that is right already keeps its time of change, which build tools watch.
        if _holds(path, data):
            return
        self._require_replaceable(path)
        try:
            self._make_folder()
            path.parent.mkdir(exist_ok=True)
            write_own_file(path, data)
        except OSError as error:
            raise SnapshotError(
                f"{self.name(path)} cannot be written: {error.strerror or error}. Nothing was lost."
            ) from error

    def _make_folder(self) -> None:
        refuse_file_in_place_of_folder(self.folder)
        if self.folder.is_dir() and any(self.folder.iterdir()):
            # A folder with other things in it: our attributes would be in force for them too.
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Files are compared by their bytes, and git on Windows may convert line ends.
        write_own_file(self.folder / ".gitattributes", ATTRIBUTES)
        write_own_file(self.folder / ".gitignore", IGNORED)

    def _require_replaceable(self, path: Path) -> None:
        if not self._is_within(path):
            raise SnapshotError(self._outside(path))
        if os.path.lexists(path) and not _is_link(path) and not self.may_delete(path):
            if not os.access(path, os.R_OK):
                raise SnapshotError(f"{self.name(path)} cannot be read, and is not overwritten: Permission denied.")
            raise SnapshotError(
                f"{self.name(path)} is no snapshot, and is not overwritten. Move it away, or keep snapshots in another "
                "folder: --snapshot-dir DIR."
            )

    def _delete(self, path: Path) -> None:
        if not self.may_delete(path):
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SnapshotError(f"{self.name(path)} cannot be deleted: {error.strerror or error}.") from None

    def _is_within(self, path: Path) -> bool:
        """Return whether the folder of `path` is one that may be changed, links followed."""
        try:
            return path.parent.resolve().is_relative_to((self.within or self.folder).resolve())
        except (RuntimeError, ValueError, OSError):  # a link to itself; a null character; a name that is too long
            return False

    def _outside(self, path: Path) -> str:
        try:
            path.resolve()
        except RuntimeError:
            return f"{self.name(path)} cannot be written: a symbolic link in its name leads to itself."
        except ValueError:
            return f"{self.name(path)} cannot be written: no file can have this name."
        return (
            f"{self.name(path)} is outside of {self.within or self.folder}, where snapshots may be changed. To change "
            f"them there, name their folder: --snapshot-dir {shlex.quote(str(self.folder))}"
        )


def _is_link(path: Path) -> bool:
    # Not `Path.is_symlink`, which raises where it may not look and for names that are too long.
    return os.path.islink(path)  # noqa: PTH114


def _holds(path: Path, data: bytes) -> bool:
    """Return whether the file at `path` is `data` already."""
    try:
        return read_regular_file(path, len(data)) == data
    except OSError:
        return False


def in_ci(environ: Mapping[str, str]) -> bool:
    """Return whether this runs in CI, where nobody reviews a pending snapshot."""
    # CI services set `CI` to true. Some people switch it off with a word and do not unset it.
    return environ.get("CI", "").casefold() not in ("", "0", "false", "no", "off")
