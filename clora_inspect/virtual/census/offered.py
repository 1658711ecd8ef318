"""What can be imported in the virtual world: which names a stand-in has, and which packages come
with clora-inspect.

Stand-ins are read as text, like all else of the census: importing them would import torch.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clora_inspect.virtual import module_set
from clora_inspect.virtual.megatron_imports import TRITON

FOLDER = Path(module_set.__file__).parent
"""The folder of the stand-ins."""

_STAND_INS = (*module_set.STAND_INS, TRITON)

_GPU_BUILDS = ("triton", "nvidia", "cuda")
"""Beginnings of the names of what only a build of torch for CUDA requires. They count as absent, so
that a census says the same on every machine.
"""


def has(module: str, name: str) -> bool:
    """Return whether `import module`, and `name` of it, works in the virtual world.

    Args:
        module: a module that does not belong to megatron-core.
        name: a name in it, or several joined by dots; only the first that is no module is looked
            for. Empty for the module itself.
    """
    root = module.partition(".")[0]
    if root in _STAND_INS:
        return _in_stand_in(module, name)
    if root in module_set.REAL:
        # A namespace package: what is not in the tree, such as `megatron.training`, may not exist.
        return False
    return root in sys.stdlib_module_names or (root not in module_set.ABSENT and root in required_packages())


def is_stand_in(module: str) -> bool:
    """Return whether a package is a stand-in, of which single names may be missing."""
    return module.partition(".")[0] in _STAND_INS


def full_name(module: str, name: str) -> str:
    """Return the dotted name of what is asked for, without the attributes of a class: with
    `Linear.forward` it is `Linear` that is asked for.
    """
    if not is_stand_in(module):
        return f"{module}.{name}".rstrip(".")
    known = module
    for part in name.split(".") if name else ():
        inside, known = known, f"{known}.{part}"
        if _file_of(known) is None and _file_of(inside) is not None:
            break
    return known


def _in_stand_in(module: str, name: str) -> bool:
    file = _file_of(module)
    if file is None:
        return False
    if not name:
        return True
    first, _, rest = name.partition(".")
    if _file_of(f"{module}.{first}") is not None:
        return _in_stand_in(f"{module}.{first}", rest)
    return first in _names_of(file) or "__getattr__" in _names_of(file)


@cache
def _file_of(module: str) -> Path | None:
    path = FOLDER.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def _names_of(file: Path) -> frozenset[str]:
    """Return the names that the file binds at its top level, those of `import *` among them."""
    code = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(_bound(code.body, file))


def _bound(statements: list[ast.stmt], file: Path) -> list[str]:
    names: list[str] = []
    for node in statements:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.append(node.name)
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                bound = [target.id for target in targets if isinstance(target, ast.Name)]
                # `__getattr__ = refuse_unknown_names(...)` has no name: a `def` may have all.
                names += [name for name in bound if name != "__getattr__"]
            case ast.Import():
                names += [alias.asname or alias.name.partition(".")[0] for alias in node.names]
            case ast.ImportFrom():
                for alias in node.names:
                    names += _starred(node, file) if alias.name == "*" else [alias.asname or alias.name]
            case ast.If() if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                names += _bound([*node.body, *node.orelse], file)
            case ast.Try():
                names += _bound([*node.body, *node.orelse, *node.finalbody], file)
    return names


def _starred(node: ast.ImportFrom, file: Path) -> list[str]:
    """Return the public names of the module, beside or below `file`, that `import *` takes."""
    folder = file.parents[max(node.level, 1) - 1]
    path = folder.joinpath(*(node.module or "").split("."))
    target = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return [name for name in _names_of(target) if not name.startswith("_")]


@cache
def required_packages() -> frozenset[str]:
    """Return the import names of everything that clora-inspect requires, directly or not, without
    extras: what is there on every machine that has it.
    """
    wanted = ["clora-inspect"]
    found: set[str] = set()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in found or name.startswith(_GPU_BUILDS):
            continue
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            # A requirement of another platform or Python, which nobody installed.
            continue
        found.add(name)
        required = map(Requirement, lines)
        wanted += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    provided = metadata.packages_distributions()
    return frozenset(
        package for package, names in provided.items() if found.intersection(map(canonicalize_name, names))
    )
