"""Paths of modules in the whole model, and many of them written as one. Pure text.

In a model chunk layers are numbered from 0 on every pipeline stage. Whatever speaks of the whole
model uses global numbers, so that a path does not depend on where the pipeline is cut.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clora_inspect.job.layer_ranges import fold

if TYPE_CHECKING:
    from collections.abc import Iterable

_LAYER = re.compile(r"(?:^|(?<=\.))layers\.(\d+)(?=\.|\[|$)")
_NUMBER = re.compile(r"(\d+)")


def global_path(module: str, global_layer: int | None) -> str:
    """`decoder.layers.0.mlp` of the stage that begins with layer 16 -> `decoder.layers.16.mlp`.

    Multi-token-prediction layers keep their own numbers: their block is never cut.
    """
    if global_layer is None or module.startswith("mtp."):
        return module
    return _LAYER.sub(f"layers.{global_layer}", module, count=1)


def layer_of(path: str) -> int | None:
    """The number in `layers.N` of a global path; None outside the layers."""
    found = _LAYER.search(path)
    return int(found[1]) if found else None


def without_layer(path: str) -> str:
    """The path with `*` for its layer number: equal for modules that differ in their layer alone."""
    return _LAYER.sub("layers.*", path, count=1)


def folded(paths: Iterable[str]) -> list[tuple[str, int]]:
    """`decoder.layers.{0..31}.mlp.linear_fc1[gate]` for thirty-two of them, with their number; in
    the order of first appearance.
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
    """A key that sorts layer 2 before layer 10."""
    return tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in _NUMBER.split(path) if part)
