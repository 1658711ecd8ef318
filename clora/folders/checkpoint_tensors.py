"""Read tensors of a megatron-core distributed checkpoint without a model and without trusting it.

torch's own reader needs to know beforehand what to load and where. This one reads one tensor, or
one layer of a stack, from the places that the index names, and nothing of it can run code.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch

from clora.errors import CheckpointError
from clora.folders.regular_file import read_part

if TYPE_CHECKING:
    from pathlib import Path

    from clora.folders.checkpoint_metadata import StoredPiece, StoredTensor

_AROUND_THE_VALUES = 64 * 1024
"""Bytes that torch writes around the values of one tensor, generously."""
_WIDEST = 8
"""Bytes of the widest number."""


def read_layer(folder: Path, key: str, tensor: StoredTensor, layer: int | None = None) -> torch.Tensor:
    """Return the tensor `key`, or what it holds at index `layer` of its first axis, on the CPU.

    Raises:
        CheckpointError: a file is missing or damaged, or its pieces leave a hole.
    """
    first = 0 if layer is None else layer
    last = (tensor.shape[0] if tensor.shape else 1) if layer is None else layer + 1
    found: torch.Tensor | None = None
    filled = None
    for piece in tensor.pieces:
        begin, end = max(piece.start[0], first), min(piece.start[0] + piece.shape[0], last)
        if begin >= end:
            continue
        values = _read(folder, key, piece)[begin - piece.start[0] : end - piece.start[0]]
        if found is None or filled is None:
            found = torch.empty((last - first, *tensor.shape[1:]), dtype=values.dtype)
            filled = torch.zeros(found.shape, dtype=torch.bool)
        at = (
            slice(begin - first, end - first),
            *(slice(start, start + size) for start, size in zip(piece.start[1:], piece.shape[1:], strict=True)),
        )
        if found[at].shape != values.shape or values.dtype != found.dtype or filled[at].any():
            raise CheckpointError(f"{folder} is damaged: the pieces of {key} do not fit together.")
        found[at] = values
        filled[at] = True
    if found is None or filled is None or not filled.all():
        raise CheckpointError(f"{folder} is damaged: {key} is not complete.")
    return found if layer is None else found[0]


def _read(folder: Path, key: str, piece: StoredPiece) -> torch.Tensor:
    path = folder / piece.file
    count = 1
    for size in piece.shape:
        count *= size
    damaged = CheckpointError(f"{path} is damaged: {key} cannot be read from it.")
    # The index is not trusted either: its numbers decide how much memory is asked for.
    if not 0 < piece.length <= count * _WIDEST + _AROUND_THE_VALUES or piece.offset < 0:
        raise damaged
    try:
        data = read_part(path, piece.offset, piece.length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise damaged from error
    if not isinstance(values, torch.Tensor) or values.numel() != count or values.layout is not torch.strided:
        raise damaged
    # A view may show one number any number of times.
    if values.untyped_storage().nbytes() < count * values.element_size():
        raise damaged
    return values.detach().reshape(piece.shape)
