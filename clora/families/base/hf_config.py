"""Read a Hugging Face `config.json` as what it is: untrusted data. Every value is checked, every
error names file and field.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_SIZE = 16_777_216
"""No dimension, vocabulary or context of a real model is larger."""

LARGEST_COUNT = 10_000
"""No model has more layers than this; building them would hang."""


class HFConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The values of one `config.json`, with the defaults that Hugging Face documents for its
    `model_type`.
    """

    origin: str
    """What to call it in messages: a path, or the name of a built-in architecture."""
    values: dict[str, Any]
    defaults: dict[str, Any] = {}

    def with_defaults(self, defaults: Mapping[str, Any]) -> HFConfig:
        """The same values over other defaults. A default of None means "may be absent"."""
        return msgspec.structs.replace(self, defaults=dict(defaults))

    def error(self, field: str, why: str) -> ModelError:
        """The error to raise about `field`."""
        return ModelError(f"{self.origin}: {field} = {_short(self.get(field))}: {why}")

    def get(self, field: str) -> Any:
        """The raw value, the default where it is absent, None where there is neither."""
        return self.values.get(field, self.defaults.get(field))

    def _required(self, field: str) -> Any:
        value = self.get(field)
        if value is None:
            state = "null" if field in self.values else "missing"
            raise ModelError(f"{self.origin}: {field} is {state}. A config.json of this model_type must say it.")
        return value

    def size(self, field: str, *, largest: int = LARGEST_SIZE) -> int:
        """A positive integer.

        Raises:
            ModelError: absent, not an integer, or out of 1..`largest`.
        """
        value = self._required(field)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(field, "must be an integer.")
        if not 1 <= value <= largest:
            raise self.error(field, f"must lie between 1 and {largest:,}.")
        return value

    def count(self, field: str) -> int:
        """An integer of 0 or more.

        Raises:
            ModelError: absent, not an integer, or out of 0..`LARGEST_SIZE`.
        """
        return 0 if self._required(field) == 0 and self.get(field) is not False else self.size(field)

    def optional_size(self, field: str) -> int | None:
        """A positive integer, or None where it is absent or null."""
        return None if self.get(field) is None else self.size(field)

    def number(self, field: str) -> float:
        """A finite number.

        Raises:
            ModelError: absent, not a number, infinite or NaN.
        """
        value = self._required(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(field, "must be a finite number.")
        return float(value)

    def optional_number(self, field: str) -> float | None:
        """A finite number, or None where it is absent or null."""
        return None if self.get(field) is None else self.number(field)

    def flag(self, field: str) -> bool:
        """True or false.

        Raises:
            ModelError: absent, or neither.
        """
        value = self._required(field)
        if not isinstance(value, bool):
            raise self.error(field, "must be true or false.")
        return value

    def text(self, field: str) -> str:
        """A string.

        Raises:
            ModelError: absent, or no string.
        """
        value = self._required(field)
        if not isinstance(value, str):
            raise self.error(field, "must be a string.")
        return value

    def word(self, field: str, known: Mapping[str, str]) -> str:
        """What `known` maps the string to.

        Raises:
            ModelError: absent, no string, or not in `known`.
        """
        value = self.text(field)
        if value not in known:
            raise self.error(field, f"must be one of {', '.join(known)}.")
        return known[value]

    def words(self, field: str, known: Mapping[str, Any], length: int) -> list[Any]:
        """What `known` maps the `length` strings of a list to.

        Raises:
            ModelError: absent, no list of strings, of another length, or with a string that is not
                in `known`.
        """
        value = self._required(field)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.error(field, "must be a list of strings.")
        if len(value) != length:
            raise self.error(field, f"must have one entry for each of the {length} layers, and has {len(value)}.")
        for word in value:
            if word not in known:
                raise self.error(field, f"{word!r} is not known here; it must be one of {', '.join(known)}.")
        return [known[word] for word in value]

    def sizes(self, field: str) -> list[int]:
        """A list of integers of 0 or more, which may be empty.

        Raises:
            ModelError: absent, or no such list.
        """
        value = self._required(field)
        if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
            raise self.error(field, "must be a list of integers of 0 or more.")
        return value

    def table(self, field: str) -> HFConfig | None:
        """A nested object, or None where it is absent or null.

        Raises:
            ModelError: there, and no object.
        """
        value = self.get(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(field, "must be an object.")
        return HFConfig(origin=f"{self.origin}: {field}", values=value)


def _short(value: object, *, longest: int = 60) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= longest else f"{text[:longest]}..."
