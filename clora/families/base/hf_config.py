"""`HFConfig`: a reader of a Hugging Face config.json, which is untrusted data.

Every value is checked when it is read, and every error names the file and the field.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import ModelError, cut
from clora.limits import LARGEST_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping


class HFConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a config.json, over the defaults that Hugging Face documents for its family."""

    origin: str
    """The file's name in messages: a path, or the name of a built-in architecture."""
    values: dict[str, Any]
    defaults: dict[str, Any] = {}

    def with_defaults(self, defaults: Mapping[str, Any]) -> HFConfig:
        """Return the values over other defaults. A default of None means "may be absent"."""
        return msgspec.structs.replace(self, defaults=dict(defaults))

    def without(self, *fields: str) -> HFConfig:
        """Return the config without fields that the model's class does not read."""
        values = {field: value for field, value in self.values.items() if field not in fields}
        return msgspec.structs.replace(self, values=values)

    def with_alias(self, alias: str, field: str) -> HFConfig:
        """Return the config with the value of `alias`, if the file has it, for `field`.

        The alias wins where both are written, as in the `attribute_map` of transformers.
        """
        if alias not in self.values:
            return self
        return msgspec.structs.replace(self, values=self.values | {field: self.values[alias]})

    def error(self, field: str, why: str) -> ModelError:
        """Return the error to raise about `field`. `why` completes "field = value: ..."."""
        by_default = "" if field in self.values else " by default"
        # A file from anybody may have megabytes in one field.
        value = cut(msgspec.json.encode(self.get(field)).decode())
        return ModelError(f"{self.origin}: {field} = {value}{by_default}: {why}")

    def get(self, field: str) -> Any:
        """Return the unchecked value: the config's own, or else the default, or else None."""
        # A null in the file beats the default, as in transformers.
        return self.values.get(field, self.defaults.get(field))

    def _required(self, field: str) -> Any:
        value = self.get(field)
        if value is None:
            state = "null" if field in self.values else "missing"
            raise ModelError(f"{self.origin}: {field} is {state}. A config.json of this model_type must say it.")
        return value

    def size(self, field: str, *, largest: int = LARGEST_SIZE) -> int:
        """Return a positive integer.

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
        """Return an integer of 0 or more.

        Raises:
            ModelError: absent, not an integer, or out of 0..`LARGEST_SIZE`.
        """
        value = self._required(field)
        # False == 0, and `size` refuses it.
        return 0 if value == 0 and value is not False else self.size(field)

    def optional_size(self, field: str) -> int | None:
        """Return a positive integer, or None when the field is absent or null."""
        return None if self.get(field) is None else self.size(field)

    def number(self, field: str) -> float:
        """Return a finite number.

        Raises:
            ModelError: absent, not a number, infinite or NaN.
        """
        value = self._required(field)
        # A JSON integer may be too large for a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise self.error(field, "must be a finite number.")
        return float(value)

    def positive_number(self, field: str) -> float:
        """Return a finite number above 0.

        Raises:
            ModelError: absent, not a number, infinite, NaN, or not above 0.
        """
        number = self.number(field)
        if number <= 0:
            raise self.error(field, "must be above 0.")
        return number

    def optional_number(self, field: str) -> float | None:
        """Return a finite number, or None when the field is absent or null."""
        return None if self.get(field) is None else self.number(field)

    def flag(self, field: str) -> bool:
        """Return true or false.

        Raises:
            ModelError: absent, or neither.
        """
        value = self._required(field)
        if not isinstance(value, bool):
            raise self.error(field, "must be true or false.")
        return value

    def text(self, field: str) -> str:
        """Return a string.

        Raises:
            ModelError: absent, or not a string.
        """
        value = self._required(field)
        if not isinstance(value, str):
            raise self.error(field, "must be a string.")
        return value

    def word(self, field: str, known: Mapping[str, str]) -> str:
        """Return the value that `known` has for the string.

        Raises:
            ModelError: absent, not a string, or not in `known`.
        """
        value = self.text(field)
        if value not in known:
            raise self.error(field, f"must be one of {', '.join(known)}.")
        return known[value]

    def words(self, field: str, known: Mapping[str, Any], length: int | None) -> list[Any]:
        """Return the values that `known` has for a list of `length` strings, one for each layer.

        A `length` of None leaves it to the list how many layers there are.

        Raises:
            ModelError: absent, not a list of strings, of another length, or with a string that is
                not in `known`.
        """
        value = self._required(field)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.error(field, "must be a list of strings.")
        if length is not None and len(value) != length:
            raise self.error(field, f"must have one entry for each of the {length} layers, and has {len(value)}.")
        for word in value:
            if word not in known:
                raise self.error(field, f"{word!r} is not known here; it must be one of {', '.join(known)}.")
        return [known[word] for word in value]

    def sizes(self, field: str) -> list[int]:
        """Return a list of integers of 0 or more, which may be empty.

        Raises:
            ModelError: absent, or not such a list.
        """
        value = self._required(field)
        # `type(...) is int` refuses booleans, which are instances of int.
        if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
            raise self.error(field, "must be a list of integers of 0 or more.")
        return value

    def table(self, field: str) -> HFConfig | None:
        """Return a nested object as a config without defaults; None when it is absent or null.

        Raises:
            ModelError: the value is not an object.
        """
        value = self.get(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(field, "must be an object.")
        return HFConfig(origin=f"{self.origin}: {field}", values=value)
