"""Find the cuDNN libraries of this environment, by names of files and packages: nothing is loaded.

torch loads the cuDNN of its own package. Transformer Engine prefers one of the system
(`_load_cuda_library` in its `common/__init__.py`): the folders that `CUDNN_HOME`, `CUDNN_PATH`,
`CUDA_HOME` and `CUDA_PATH` name, `/usr/local/cuda`, and what the dynamic linker finds. Of two
releases in one process it gets functions of one and kernels of the other, and falls back to slower
kernels without a word.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

PACKAGES = ("nvidia-cudnn-cu11", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")

HOMES = ("CUDNN_HOME", "CUDNN_PATH", "CUDA_HOME", "CUDA_PATH")
"""Variables in the order in which Transformer Engine reads them."""

TOOLKIT = Path("/usr/local/cuda")

LINKER = tuple(map(Path, ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")))
"""Folders that the dynamic linker looks into after those of `LD_LIBRARY_PATH`."""

_BELOW = ("lib*", "lib*/*", "targets/*/lib")
"""Where libraries are below the folder of a toolkit."""


class Cudnn(NamedTuple):
    """One cuDNN."""

    release: str
    """For example 9.20.0; empty if the name of its file does not say it."""
    origin: str
    """A package, or the folder of a library of the system."""

    def __str__(self) -> str:
        return f"{self.origin} {self.release}".strip()


def cudnn_of_packages(path: Sequence[str] | None = None) -> list[Cudnn]:
    """Return the packages of cuDNN in the folders of `path`, or else of `sys.path`."""
    # importlib.metadata imports a parser of e-mails, which no other command needs.
    from importlib.metadata import Distribution

    found = []
    for name in PACKAGES:
        installed = next(iter(Distribution.discover(name=name, path=list(sys.path if path is None else path))), None)
        if installed is not None:
            found.append(Cudnn(installed.version, name))
    return found


def cudnn_of_system(environ: Mapping[str, str], folders: Iterable[Path] = (TOOLKIT, *LINKER)) -> list[Cudnn]:
    """Return the cuDNN libraries outside of Python's packages, first the one that is loaded."""
    homes = [Path(environ[name]) for name in HOMES if environ.get(name)]
    linked = [Path(place) for place in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if place]
    # One file has several names: links, and folders that are named twice.
    found: dict[Path, Cudnn] = {}
    for folder in (*homes, *linked, *folders):
        for library in _libraries(folder):
            # A link to itself has no end, and is no library.
            with suppress(OSError, RuntimeError):
                found.setdefault(library.resolve(strict=True), _described(library))
    return list(found.values())


def cudnn_note(packages: Sequence[Cudnn], system: Sequence[Cudnn]) -> str | None:
    """Return a sentence if two releases of cuDNN are in the way of each other, else None."""
    if len(packages) > 1:
        names = " and ".join(map(str, packages))
        return (
            f"two packages of cuDNN are installed, {names}: they write into the same folder, and Transformer Engine "
            f"may fall back to slower kernels without a word. Uninstall both, and install the one that torch needs."
        )
    if packages and system and not _is_same(packages[0].release, system[0].release):
        return (
            f"there are two releases of cuDNN, {packages[0]}, which torch loads, and {system[0]}, which Transformer "
            "Engine loads before it: it may fall back to slower kernels without a word. Take the folder of the second "
            f"out of LD_LIBRARY_PATH and {', '.join(HOMES)}, or install the same release of both."
        )
    return None


def note_on_this_machine() -> str | None:
    """Return the note on the cuDNN libraries that are here, if there is one."""
    return cudnn_note(cudnn_of_packages(), cudnn_of_system(os.environ))


def _libraries(folder: Path) -> Iterator[Path]:
    for pattern in ("", *_BELOW):
        # The newest name first, as Transformer Engine takes it.
        yield from sorted(folder.glob(f"{pattern}/libcudnn.so*" if pattern else "libcudnn.so*"), reverse=True)


def _described(library: Path) -> Cudnn:
    # libcudnn.so.9 is a link to libcudnn.so.9.10.2.
    release = re.search(r"\.so\.([\d.]*\d)$", library.resolve().name)
    return Cudnn(release[1] if release else "", str(library.parent))


def _is_same(one: str, other: str) -> bool:
    """Compare as many numbers as both have: 9.20.0.48 and 9.20.0 are the same release."""
    pairs = list(zip(one.split("."), other.split("."), strict=False))
    return len(pairs) > 1 and all(number == another for number, another in pairs)
