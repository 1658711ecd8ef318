"""Find and read the file of a run."""

from __future__ import annotations

import codecs
from functools import lru_cache
from pathlib import Path
from typing import Any

from clora.errors import CloraError, ModelError, one_line
from clora.folders.regular_file import read_beginning, read_regular_file
from clora_inspect.sources.run.recipe import NAME, recipe_at, text_of
from clora_inspect.sources.run.yaml_reader import parse_yaml

SUFFIXES = (".yaml", ".yml")

LARGEST_FILE = 512 * 1024
"""Bytes. Such files have a few thousand, and PyYAML reads some 100 kB a second."""

_LATEST = "latest_checkpointed_iteration.txt"
"""File beside the folders of iterations that names the latest. Megatron-Bridge's own is a pickle,
which is never opened.
"""

_LOOKED_AT = 10_000
"""Names in a folder that are looked at, so that a folder of millions of files costs no time."""


def run_in(folder: Path) -> Path | None:
    """Return the file of the run in a checkpoint folder, or in the latest iteration below it; None
    if there is none.
    """
    if (folder / NAME).is_file():
        return folder / NAME
    named = _named_latest(folder)
    if named is not None:
        return named / NAME if (named / NAME).is_file() else None
    numbers: dict[int, Path] = {}
    for count, child in enumerate(folder.iterdir()):
        if count >= _LOOKED_AT:
            break
        number = child.name.removeprefix("iter_")
        if number != child.name and number.isdecimal() and len(number) < 20 and (child / NAME).is_file():
            numbers[int(number)] = child
    return numbers[max(numbers)] / NAME if numbers else None


def _named_latest(folder: Path) -> Path | None:
    file = folder / _LATEST
    if not file.is_file():
        return None
    text = read_beginning(file, 32).decode(errors="replace").strip()
    return folder / f"iter_{int(text):07d}" if text.isdecimal() and text.isascii() else None


def read_run(path: Path) -> dict[str, Any]:
    """Return the mapping in the file of a run. It is shared: change nothing in it.

    Raises:
        ModelError: the file cannot be read, or holds something else.
        DeviceError: it is a recipe's, which wants what is not here.
    """
    return _parsed(_data(path), path)


def _data(path: Path) -> bytes:
    recipe = recipe_at(path)
    if recipe is not None:
        return text_of(recipe, LARGEST_FILE)
    try:
        return read_regular_file(path, LARGEST_FILE).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise ModelError(f"{str(path)[:200]} cannot be read: {error.strerror or error}.") from None


@lru_cache(maxsize=2)
def _parsed(data: bytes, path: Path) -> dict[str, Any]:
    """Return the mapping in `data`. A command asks several times, and parsing takes a tenth of a
    second.
    """
    try:
        values = parse_yaml(data, path)
    # Deep nesting is a RecursionError, a number of 4,301 digits a ValueError, a key that is a list
    # a TypeError.
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, CloraError):
            raise
        raise ModelError(f"{path} is not valid YAML: {one_line(error)[:200]}.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no mapping of keys to values.")
    return values
