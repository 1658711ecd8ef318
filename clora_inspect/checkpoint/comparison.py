"""Compare the tensors that a job asks for with those that a checkpoint has. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from clora.folders.checkpoint_metadata import is_beside_the_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.checkpoint.asked import AskedTensor

ADAPTER = ".adapter."
"""Part of the key of every factor of an adapter, and of no other tensor."""

_NUMBERED_LAYER = re.compile(r"\blayers\.\d+\.")
_ALL_LAYERS = re.compile(r"\blayers\.(?!\d+\.)")


class Saved(msgspec.Struct, frozen=True):
    """The tensors of a checkpoint, key -> full shape, without what a trainer saves beside them."""

    base: dict[str, tuple[int, ...]]
    adapters: dict[str, tuple[int, ...]]

    @property
    def holds_base(self) -> bool:
        """False if it holds adapters alone."""
        return bool(self.base) or not self.adapters

    @property
    def has_a_key_per_layer(self) -> bool:
        """True if the decoder's tensors are saved layer by layer, also where layers are alike."""
        keys = [key for key in (*self.base, *self.adapters) if "decoder.layers." in key]
        return any(map(_NUMBERED_LAYER.search, keys)) and not any(map(_ALL_LAYERS.search, keys))


class Reshaped(msgspec.Struct, frozen=True):
    """A tensor that both have, in other shapes."""

    key: str
    saved: tuple[int, ...]
    asked: tuple[int, ...]


class Difference(msgspec.Struct, frozen=True):
    """How a checkpoint differs from what is asked of it. The lists are sorted."""

    asked: int
    """Number of tensors that are asked for."""
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[Reshaped, ...]
    other_rows: tuple[Reshaped, ...]
    """Embeddings that differ in rows alone: megatron-core loads the rows that both have."""


def divided(tensors: Mapping[str, tuple[int, ...]]) -> Saved:
    """Divide the tensors of a checkpoint into those of the base and of adapters."""
    ours = {key: shape for key, shape in tensors.items() if not is_beside_the_model(key)}
    return Saved(
        {key: shape for key, shape in ours.items() if ADAPTER not in key},
        {key: shape for key, shape in ours.items() if ADAPTER in key},
    )


def compare(asked: Mapping[str, AskedTensor], saved: Mapping[str, tuple[int, ...]]) -> Difference:
    """Return how `saved` differs from `asked`."""
    both = sorted(asked.keys() & saved.keys())
    other = [
        Reshaped(key, saved[key], asked[key].shape)
        for key in both
        if saved[key] not in (asked[key].shape, asked[key].shape_in_bridge)
    ]
    rows = [each for each in other if asked[each.key].may_differ and each.saved[1:] == each.asked[1:]]
    return Difference(
        asked=len(asked),
        missing=tuple(sorted(asked.keys() - saved.keys())),
        unexpected=tuple(sorted(saved.keys() - asked.keys())),
        reshaped=tuple(each for each in other if each not in rows),
        other_rows=tuple(rows),
    )
