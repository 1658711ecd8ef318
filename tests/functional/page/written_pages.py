"""Pages that commands have written."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Written:
    """A page that a command has written."""

    path: Path
    status: int
    err: str


@dataclass(frozen=True)
class ProvedPages:
    """Pages about jobs that have drifted from their snapshots; the proofs of `noisy` fail."""

    steady: Written
    noisy: Written
    check: Written
    """The check of `noisy`."""


def write_page(command: str, *words: str, path: Path) -> Written:
    """Run `report` or `check` in this process, and let it write the page to `path`."""
    wanted = ("-o", str(path)) if command == "report" else ("--write", f"html={path}")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([command, *words, "-q", "--no-progress", *wanted])
    return Written(path, status, err.getvalue())
