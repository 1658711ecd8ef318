"""The file beside the tensors of an adapter checkpoint that says how each adapter is scaled.

An adapter adds `(alpha / dim) B A x`. The tensors hold A and B, their shapes give dim, and alpha is
in no tensor: without this file, adapters that were trained with alpha 8 would load into a model
with alpha 32 and compute something else. It is plain JSON, so nothing in it can run.

Dropout is not in it: it acts in training only, and training may go on with another one. The first
values and the sharing of experts are not either: the one is gone, the other is in the shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.errors import CheckpointError
from clora.folders.fingerprint import RecordedFingerprint
from clora.folders.regular_file import read_regular_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE = "adapters.json"
LARGEST_FILE = 64 * 1024 * 1024
"""Bytes. A line for each expert of the largest models has a few million."""


class AdapterScale(msgspec.Struct, frozen=True):
    """The two numbers whose ratio stands before B A."""

    alpha: float
    dim: int

    @property
    def factor(self) -> float:
        return self.alpha / self.dim


class ScaledAdapter(msgspec.Struct, frozen=True):
    """An adapter under the name that it has on every layout."""

    key: str
    """The key of its tensors without the name of the factor."""
    index: tuple[int, ...]
    """Numbers of its layer and expert, when the tensors of all of them are one under this key."""
    scale: AdapterScale

    @property
    def indexed(self) -> str:
        return f"{self.key}[{','.join(map(str, self.index))}]"


class SavedScales(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of the file."""

    adapters: dict[str, AdapterScale]
    """Key, or key and index where the adapters of one key differ -> scale."""
    format: int
    layer_pattern: str | None = None
    """The letters of the layers of a HybridModel, by whose numbers the keys are called; left out
    for other models.
    """
    fingerprint: RecordedFingerprint | None = None
    """Left out by releases that knew none, and for factors whose values do not fit into fp32."""

    def scale_of(self, key: str, index: tuple[int, ...]) -> AdapterScale | None:
        """Return the scale of the adapter of this key and index, None if the file has none."""
        return self.adapters.get(f"{key}[{','.join(map(str, index))}]", self.adapters.get(key))


def write_scales(
    folder: Path,
    adapters: Iterable[ScaledAdapter],
    layer_pattern: str | None = None,
    fingerprint: RecordedFingerprint | None = None,
) -> None:
    """Write the file into `folder`, with one line for all adapters of a key that agree."""
    by_key: dict[str, list[ScaledAdapter]] = {}
    for adapter in adapters:
        by_key.setdefault(adapter.key, []).append(adapter)
    scales: dict[str, AdapterScale] = {}
    for key in sorted(by_key):
        if len({adapter.scale for adapter in by_key[key]}) == 1:
            scales[key] = by_key[key][0].scale
        else:
            scales |= {each.indexed: each.scale for each in sorted(by_key[key], key=lambda each: each.index)}
    written = SavedScales(scales, format=1, layer_pattern=layer_pattern, fingerprint=fingerprint)
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(written)) + b"\n")


def saved_pattern(folder: Path) -> str | None:
    """Return the letters of the layers of the HybridModel that was saved; None where the folder
    does not say.

    Raises:
        CheckpointError: the file is damaged.
    """
    saved = read_scales(folder)
    return saved.layer_pattern if saved else None


def read_scales(folder: Path) -> SavedScales | None:
    """Return the content of the file in `folder`, or None if there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / FILE
    return _read(path) if path.exists() else None


def refuse_other_scales(folder: Path, adapters: Iterable[ScaledAdapter]) -> bool:
    """Compare the adapters of a model with the file in `folder`.

    Returns:
        False if the checkpoint has no such file, so that nobody can tell.

    Raises:
        CheckpointError: an adapter was saved with another scale, or the file is damaged.
    """
    path = folder / FILE
    saved = read_scales(folder)
    if saved is None:
        return False
    adapters = list(adapters)
    other = []
    for adapter in adapters:
        scale = saved.scale_of(adapter.key, adapter.index)
        if scale is None:
            raise CheckpointError(f"{path} is damaged: it has no scale of {adapter.key}.")
        if abs(scale.factor - adapter.scale.factor) > 1e-6 * scale.factor:
            other.append((adapter, scale))
    if other:
        adapter, scale = other[0]
        alpha = scale.factor * adapter.scale.dim
        raise CheckpointError(
            f"{folder} was saved with alpha {scale.alpha:g} and dim {scale.dim}, which scales {adapter.key} by "
            f"{scale.factor:g}; this model has alpha {adapter.scale.alpha:g} and dim {adapter.scale.dim}, which "
            f"scales it by {adapter.scale.factor:g} ({len(other)} of {len(adapters)} adapters differ). Adapt the "
            f"model with alpha={alpha:g}."
        )
    return True


def _read(path: Path) -> SavedScales:
    try:
        scales = msgspec.json.decode(read_regular_file(path, LARGEST_FILE), type=SavedScales)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from None
    for key, scale in scales.adapters.items():
        if scale.dim < 1 or not 0 < scale.alpha < float("inf"):
            raise CheckpointError(f"{path} is damaged: {key} has alpha {scale.alpha:g} and dim {scale.dim}.")
    return scales
