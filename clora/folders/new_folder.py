"""Write a new folder under a name of its own, and give it its real name when it is complete.

Nobody reads half a folder that way, and two writers of one name do not meet: the first one to
finish has it, and the other is refused. A folder that this module did not make is never removed or
replaced, whatever it is called. That holds for the folder of a writer that was killed, too: on
storage that nodes share, the lock of a writer that is alive on another node may not be seen.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora.errors import CloraError


@dataclass(frozen=True, slots=True)
class UnfinishedFolder:
    """A folder that this process has made and is filling."""

    path: Path
    """Where it is now. Its random part makes it a name that nobody else uses."""
    final: Path
    made_parents: tuple[Path, ...]
    """The parents that were missing and were made with it, the innermost first."""
    error: type[CloraError]

    def complete(self) -> None:
        """Give the folder its real name.

        Raises:
            CloraError: in the class of `error`: another writer was faster, or the system refuses.
        """
        try:
            self.path.rename(self.final)
        except OSError as problem:
            if os.path.lexists(self.final):
                raise self.error(
                    f"{self.final} exists already: it was made while this one was written, and is not overwritten. "
                    "Choose another name or remove it."
                ) from None
            raise self.error(f"{self.final} cannot be written: {problem.strerror or problem}.") from None

    def discard(self) -> None:
        """Remove the folder, and the parents that were made for it and hold nothing else."""
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in self.made_parents:
            try:
                parent.rmdir()
            except OSError:
                return


def make_unfinished(final: Path, error: type[CloraError]) -> UnfinishedFolder:
    """Make an empty folder beside `final`, and the parents of both.

    Raises:
        CloraError: in the class of `error`: `final` exists, or no folder can be made there.
    """
    refuse_existing(final, error)
    path = final.with_name(f"{final.name}.{secrets.token_hex(4)}.unfinished")
    made_parents = tuple(parent for parent in final.parents if not parent.exists())
    folder = UnfinishedFolder(path, final, made_parents, error)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder that is there already is somebody else's, and this raises.
        path.mkdir()
    except OSError as problem:
        folder.discard()
        # Python's words depend on which parent is the file: "File exists" and "Not a directory".
        parent_is_file = isinstance(problem, FileExistsError | NotADirectoryError)
        reason = "a parent of it is a file" if parent_is_file else problem.strerror or problem
        raise error(f"{final} cannot be written: {reason}.") from None
    return folder


def refuse_existing(final: Path, error: type[CloraError]) -> None:
    """Raise unless `final` can be the name of a new folder.

    Raises:
        CloraError: in the class of `error`: it is no name of a folder, something is there already,
            or the system does not let this process look.
    """
    if not final.name or final.name == "..":
        raise error(f"{str(final)!r} is no name of a new folder. Name one, for example 'adapters/step-1000'.")
    try:
        os.lstat(final)
    except OSError:
        # It is not there, or this process may not look: then making the folder says why.
        return
    except ValueError as problem:  # a NUL, or a character that the file system cannot have
        raise error(f"{str(final)!r} cannot be the name of a folder: {problem}.") from None
    else:
        raise error(f"{final} exists already and is not overwritten. Choose another name or remove it.")
