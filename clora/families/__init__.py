"""The Hugging Face model families that are supported, one file for each family or close relatives.

To add a family, write a file in `dense` or `sparse`, or here if its layers are of other kinds, that
defines `FAMILIES`, a tuple of `Family`. No other list names it: `families` reads every file. Pure:
no torch, no megatron-core.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.families.base.family import Family


# The files are imported at the first call, so that commands that need no family do not pay for all.
@cache
def families() -> dict[str, Family]:
    """Return every family by the `model_type` of its config.json, sorted by that name."""
    found = {model_type: family for family in _in_files() for model_type in family.model_types}
    return dict(sorted(found.items()))


def _in_files() -> Iterator[Family]:
    for package in (__name__, f"{__name__}.dense", f"{__name__}.sparse"):
        for file in iter_modules(import_module(package).__path__):
            if not file.ispkg:
                yield from import_module(f"{package}.{file.name}").FAMILIES
