"""Find the modules of a source tree of megatron-core. Pure: it reads names, never contents."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from clora.errors import CloraError
from clora.limits import LARGEST_CORE_TREE

if TYPE_CHECKING:
    from collections.abc import Iterator

CORE = "megatron.core"
_FOLDER = Path("megatron", "core")
_SUFFIXES = (".py", ".cpp", ".so", ".pyd")


class NotACoreTreeError(CloraError):
    """The path is no source tree of megatron-core."""


@dataclass(frozen=True, slots=True)
class CoreFile:
    """One file of the tree that is a module, or becomes one when it is compiled."""

    path: Path
    shown: str
    """The path from the folder that holds `megatron`, with slashes."""
    module: str
    """The name under which Python imports it: `megatron.core.transformer.mlp`."""

    @property
    def is_compiled(self) -> bool:
        """True if it is no Python: what it asks for is not read."""
        return self.path.suffix != ".py"

    @property
    def package(self) -> str:
        """The package that relative imports of the file start from."""
        return self.module if self.path.stem == "__init__" else self.module.rpartition(".")[0]


def files_of(path: Path) -> list[CoreFile]:
    """Return the modules below `megatron/core`, in the order of their files' names.

    Args:
        path: the folder that holds `megatron` (a checkout, or `site-packages`), or `megatron`, or
            `megatron/core` itself.

    Raises:
        NotACoreTreeError: there is no such tree, or it has too many files.
    """
    root = _root_of(path)
    # One more than the limit, so that a folder without end is not read to its end.
    found = list(islice(_modules(root / _FOLDER), LARGEST_CORE_TREE + 1))
    if not any(file.suffix == ".py" for file in found):
        raise NotACoreTreeError(f"{path}: its folder {_FOLDER.as_posix()} holds no Python file.")
    if len(found) > LARGEST_CORE_TREE:
        raise NotACoreTreeError(
            f"{path}: more than {LARGEST_CORE_TREE:,} modules below {_FOLDER.as_posix()}: megatron-core has about 550."
        )
    return [CoreFile(file, file.relative_to(root).as_posix(), _module(file, root)) for file in sorted(found)]


def _root_of(path: Path) -> Path:
    # Absolute, because `megatron` and `core` need the names of the folders above them.
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link to another name
    for root in (path, path.parent, path.parent.parent):
        if (root / _FOLDER).is_dir() and path in {root, root / "megatron", root / _FOLDER}:
            return root
    raise NotACoreTreeError(
        f"{path} is no source tree of megatron-core: it has no folder {_FOLDER.as_posix()}. "
        f"Name the folder that holds it, such as a checkout of Megatron-LM."
    )


def _modules(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names if name.endswith(_SUFFIXES))


def _module(file: Path, root: Path) -> str:
    relative = file.relative_to(root)
    # `helpers.cpython-312-x86_64-linux-gnu.so` is the module `helpers`.
    name = relative.name.partition(".")[0]
    return ".".join([*relative.parent.parts, *([] if name == "__init__" else [name])])
