"""Decide what the modules of megatron-core get when they import.

A module that Python runs looks `__import__` up in its own `__builtins__`. Those of the virtual
world's megatron-core are given the function in this file, so that what they find is different from
what torch and the user's code find under the same name:

- Triton is our stand-in. Under its own name in `sys.modules` it would break torch's compiler.
- Sharded data parallelism is absent, or is imported when it is used (`sharded_data_parallel.py`).
"""

from __future__ import annotations

import builtins
from importlib import import_module
from importlib.util import resolve_name
from typing import TYPE_CHECKING, Any

from clora_inspect.virtual.sharded_data_parallel import Deferred, is_deferred, is_refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

TRITON = "triton"
"""A stand-in as those of `module_set.STAND_INS`, for megatron-core only."""


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,  # noqa: A002 - the names are those of builtins.__import__
    locals: Mapping[str, Any] | None = None,  # noqa: A002
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Import as `builtins.__import__` does, but for what this file's docstring lists."""
    importer = "" if globals is None else globals["__name__"]
    wanted = name if level == 0 else resolve_name("." * level + name, (globals or {})["__package__"])
    if wanted.partition(".")[0] == TRITON:
        return _stand_in_for_triton(wanted, fromlist)
    if is_refused(wanted, importer):
        raise ModuleNotFoundError(
            f"No module named {wanted!r} in the virtual world: a plan has no sharded data parallelism", name=wanted
        )
    if is_deferred(wanted, importer):
        return Deferred(wanted)
    return builtins.__import__(name, globals, locals, fromlist, level)


def _stand_in_for_triton(name: str, fromlist: Sequence[str] | None) -> ModuleType:
    module = import_module(f"{__package__}.{name}")
    # `import a.b` binds `a`, and `from a.b import c` takes c from `a.b`.
    return module if fromlist else import_module(f"{__package__}.{TRITON}")


BUILTINS = vars(builtins) | {"__import__": _import}
"""The `__builtins__` of the modules of megatron-core."""
