"""Paths of modules in the whole model, and the folded form of many of them. Pure text.

A model chunk numbers its layers from 0 on every pipeline stage. Paths of the whole model have
global layer numbers instead, so that they do not depend on where the pipeline is cut.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clora.plan import is_prediction
from clora_inspect.job.layer_ranges import fold

if TYPE_CHECKING:
    from collections.abc import Iterable

_LAYER = re.compile(r"(?:^|(?<=\.))layers\.(\d+)(?=\.|\[|$)")
_NUMBER = re.compile(r"(\d+)")


def global_path(module: str, global_layer: int | None) -> str:
    """Return the path in the whole model of a module whose path in its chunk is `module`.

    On the stage that begins with layer 16, `decoder.layers.0.mlp` becomes `decoder.layers.16.mlp`.
    """
    # The block of multi-token prediction is never cut, so its layers keep their numbers.
    if global_layer is None or is_prediction(module):
        return module
    return _LAYER.sub(f"layers.{global_layer}", module, count=1)


def layer_of(path: str) -> int | None:
    """Return the number in the first `layers.N` of a path, or None outside the layers."""
    found = _LAYER.search(path)
    return int(found[1]) if found else None


def without_layer(path: str) -> str:
    """Replace the layer number by `*`: modules that differ only in their layer become equal."""
    return _LAYER.sub("layers.*", path, count=1)


def folded(paths: Iterable[str]) -> list[tuple[str, int]]:
    """Fold paths over layers, in the order of first appearance.

    Thirty-two paths become `("decoder.layers.{0..31}.mlp.linear_fc1[gate]", 32)`.
    """
    layers: dict[str, list[int | None]] = {}
    for path in paths:
        layers.setdefault(without_layer(path), []).append(layer_of(path))
    return [
        (
            alike.replace("layers.*", f"layers.{fold(number for number in numbers if number is not None)}", 1),
            len(numbers),
        )
        for alike, numbers in layers.items()
    ]


def natural(path: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a key that sorts layer 2 before layer 10."""
    # The bool keeps numbers and names apart, which Python cannot compare.
    return tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in _NUMBER.split(path) if part)
