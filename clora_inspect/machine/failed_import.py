"""Tell which installed package could not be imported. Why depends on its release and on the
environment: torch, for one, refuses a `TORCH_LOGS` that it does not know.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clora.errors import described

if TYPE_CHECKING:
    from types import TracebackType

_OURS = frozenset({"clora", "clora_inspect", "__main__", ""})


def failed_import(error: BaseException | None) -> str | None:
    """Return a sentence if `error` ended the import of an installed package, else None."""
    if isinstance(error, SyntaxError) and error.filename and _is_of_others(Path(error.filename)):
        # A release for a newer Python: the import ends before anything of the file runs.
        return (
            f"{error.filename} cannot be imported here: Python {platform.python_version()} cannot parse line "
            f"{error.lineno}: {error.msg}."
        )
    package = None if error is None else _imported(error.__traceback__)
    if package is None:
        return None
    if isinstance(error, SystemExit):
        return f"{package} cannot be imported here: it called sys.exit({error.code!r}). See where with --traceback."
    if not isinstance(error, Exception):
        return None
    reason = described(error, 300).rstrip(" .,")
    return f"{package} cannot be imported here: {reason}. See all of it with --traceback."


def _is_of_others(file: Path) -> bool:
    ours = Path(__file__).parents[1]
    return file.is_file() and not file.is_relative_to(ours) and not file.is_relative_to(ours.with_name("clora"))


def _imported(traceback: TracebackType | None) -> str | None:
    """Return the package that was being imported where the traceback ends."""
    package = name = ""
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if not package and traceback.tb_frame.f_code.co_name == "<module>" and name not in _OURS:
            package = name
        traceback = traceback.tb_next
    # What ends in a stand-in of ours for a package, which others import, is a fault of ours.
    is_installed = package and package not in sys.stdlib_module_names and name not in _OURS
    return package if is_installed else None
