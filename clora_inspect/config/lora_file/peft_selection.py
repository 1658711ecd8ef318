"""Tell which modules an `adapter_config.json` selects, as PEFT 0.21.2 does.

A list selects modules by their whole path or its end, and `layers_to_transform` narrows it down. A
string is a regular expression for the whole path, or `all-linear`.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import msgspec

from clora_inspect.config.lora_file.errors import LoRAFileError
from clora_inspect.config.lora_file.expression import compiled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

ALL_LINEAR = "all-linear"
LONGEST_SEARCH = 20.0
"""Seconds that the expressions of one file may take on all modules of a model."""

_FIRST_NUMBER = re.compile(r".*?\.[^.]*\.(\d+)\.")
_NUMBER = re.compile(r"(?:^|\.)\d+(?:\.|$)")
_NAME = re.compile(r"[\w.-]+")


class SelectionFields(msgspec.Struct, frozen=True):
    """The fields of `LoraConfig` that select modules."""

    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None


class Selection:
    """The modules that one file selects."""

    def __init__(self, fields: Mapping[str, Any], path: Path) -> None:
        """Read the fields.

        Raises:
            LoRAFileError: one has a wrong type, or is an expression that is not read here.
        """
        try:
            self._fields = msgspec.convert(fields, SelectionFields)
        except (msgspec.ValidationError, OverflowError) as error:
            raise LoRAFileError(f"{path} is not what it should be: {error}.") from None
        targets, excluded = self._fields.target_modules, self._fields.exclude_modules
        self.is_all_linear = isinstance(targets, str) and targets.lower() == ALL_LINEAR
        self.entries = tuple(dict.fromkeys(targets)) if isinstance(targets, list) else ()
        is_expression = isinstance(targets, str) and not self.is_all_linear
        self._targets = compiled(str(targets), f"{path}: target_modules") if is_expression else None
        self._excluded = (
            compiled(excluded, f"{path}: exclude_modules") if isinstance(excluded, str) and excluded else None
        )
        self._layers = _layers(self._fields, path) if self.entries else None
        self._layer_of = _layer_expressions(self._fields, path)
        self._path = path
        self._began = time.monotonic()

    @property
    def has_no_targets(self) -> bool:
        return not self._fields.target_modules

    @property
    def tells_experts_apart(self) -> bool:
        """True if it may select one expert of a layer and not another."""
        excluded = self._fields.exclude_modules
        names = [*self.entries, *(excluded if isinstance(excluded, list) else ())]
        return bool(self._targets or self._excluded or any(map(_NUMBER.search, names)))

    def selects(self, key: str) -> bool:
        """Return whether PEFT adapts the linear at `key`.

        Raises:
            LoRAFileError: its expressions take too long.
        """
        if time.monotonic() - self._began > LONGEST_SEARCH:
            raise LoRAFileError(
                f"{self._path}: matching its expressions with the model takes more than {LONGEST_SEARCH:.0f} seconds. "
                "Write lists of names."
            )
        if self._excludes(key):
            return False
        if self.is_all_linear:
            return key != "lm_head"
        if self._targets is not None:
            return self._targets.fullmatch(key) is not None
        return any(_ends_with(key, entry) for entry in self.entries) and self._is_in_layers(key)

    def names(self, entry: str, key: str) -> bool:
        """Return whether the `entry` of a list is the name of the module at `key`."""
        return _ends_with(key, entry)

    def _excludes(self, key: str) -> bool:
        excluded = self._fields.exclude_modules
        if self._excluded is not None:
            return self._excluded.fullmatch(key) is not None
        return isinstance(excluded, list) and any(_ends_with(key, entry) for entry in excluded)

    def _is_in_layers(self, key: str) -> bool:
        if self._layers is None:
            return True
        found = next((found for each in self._layer_of if (found := each.match(key))), None)
        return found is not None and int(found[1]) in self._layers


def _ends_with(key: str, entry: str) -> bool:
    return key == entry or key.endswith(f".{entry}")


def _layers(fields: SelectionFields, path: Path) -> frozenset[int] | None:
    """Return the numbers in `layers_to_transform`; None for all layers."""
    written = fields.layers_to_transform
    if written is None or written == []:
        return None
    numbers = [written] if isinstance(written, int) else written
    if min(numbers) < 0:
        raise LoRAFileError(f"{path}: layers_to_transform has {min(numbers)}, and layers are counted from 0.")
    return frozenset(numbers)


def _layer_expressions(fields: SelectionFields, path: Path) -> tuple[re.Pattern[str], ...]:
    """Return what finds the number of a layer in a key."""
    written = fields.layers_pattern
    names = [written] if isinstance(written, str) and written else written or []
    for name in names:
        if not _NAME.fullmatch(name):
            raise LoRAFileError(
                f"{path}: layers_pattern has {name[:80]!r}, an expression; write the name of the list of layers, "
                "such as 'layers'."
            )
    return tuple(re.compile(rf"(?:^|.*?\.){name}\.(\d+)\.") for name in names) or (_FIRST_NUMBER,)
