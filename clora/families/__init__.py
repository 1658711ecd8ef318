"""The Hugging Face model families that are supported, one file for each family or close relatives.

To add a family, write a file in this folder that defines `FAMILIES`, a tuple of `Family`. No other
list names it: `families` reads every file here. Pure: no torch, no megatron-core.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora.families.base.family import Family


# The files are imported at the first call, so that commands that need no family do not pay for all.
@cache
def families() -> dict[str, Family]:
    """Return every family by the `model_type` of its config.json, sorted by that name."""
    found: dict[str, Family] = {}
    for file in iter_modules(__path__):
        if file.ispkg:
            continue
        for family in import_module(f"{__name__}.{file.name}").FAMILIES:
            for model_type in family.model_types:
                found[model_type] = family
    return dict(sorted(found.items()))
