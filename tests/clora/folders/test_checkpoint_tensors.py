"""Tensors of a checkpoint that somebody else made: whatever its index and files say, nothing runs,
little memory is asked for, and a hole is never filled with what happens to lie there.
"""

from __future__ import annotations

import pickle
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from clora.errors import CheckpointError
from clora.folders.checkpoint_metadata import StoredPiece, StoredTensor, read_places
from clora.folders.checkpoint_tensors import read_layer

if TYPE_CHECKING:
    from pathlib import Path

KEY = "decoder.layers.mlp.linear_fc2.adapter.linear_in.weight"
VALUES = torch.arange(24.0).reshape(2, 3, 4)


class Runs:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('it ran')",))


def stored(folder: Path, *values: Any) -> list[tuple[int, int]]:
    """Write `values` behind each other into one file; return where each begins and its length."""
    places = []
    with (folder / "data").open("wb") as file:
        for value in values:
            begin = file.tell()
            torch.save(value, file)
            places.append((begin, file.tell() - begin))
    return places


def piece(start: tuple[int, ...], shape: tuple[int, ...], place: tuple[int, int], file: str = "data") -> StoredPiece:
    return StoredPiece(start, shape, file, *place)


def test_a_layer_is_put_together_from_its_pieces(tmp_path: Path) -> None:
    first, left, right = stored(tmp_path, VALUES[:1], VALUES[1:, :, :1].clone(), VALUES[1, :, 1:].clone())
    tensor = StoredTensor(
        (2, 3, 4),
        (piece((0, 0, 0), (1, 3, 4), first), piece((1, 0, 0), (1, 3, 1), left), piece((1, 0, 1), (1, 3, 3), right)),
    )
    assert torch.equal(read_layer(tmp_path, KEY, tensor, 0), VALUES[0])
    assert torch.equal(read_layer(tmp_path, KEY, tensor, 1), VALUES[1])
    assert torch.equal(read_layer(tmp_path, KEY, tensor), VALUES)


WHOLE = (0, 0, 0), (2, 3, 4)
FAULTS: dict[str, tuple[Any, list[Any], str]] = {
    "a hole": (VALUES[:1], [((0, 0, 0), (1, 3, 4))], "is not complete"),
    "no piece": (VALUES, [], "is not complete"),
    "a piece twice": (VALUES, [WHOLE, WHOLE], "do not fit together"),
    "a piece outside": (VALUES[:, :, :2].clone(), [((0, 0, 3), (2, 3, 2))], "do not fit together"),
    "another size": (VALUES[:1], [WHOLE], "cannot be read from it"),
    "one number shown many times": (torch.zeros(1).expand(2, 3, 4), [WHOLE], "cannot be read from it"),
    "code": (Runs(), [WHOLE], "cannot be read from it"),
    "no tensor": ([1, 2], [WHOLE], "cannot be read from it"),
    "a sparse tensor": (VALUES.to_sparse(), [WHOLE], "cannot be read from it"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_damaged_is_refused(tmp_path: Path, name: str) -> None:
    value, pieces, said = FAULTS[name]
    (place,) = stored(tmp_path, value)
    tensor = StoredTensor((2, 3, 4), tuple(piece(start, shape, place) for start, shape in pieces))
    with pytest.raises(CheckpointError, match=said):
        read_layer(tmp_path, KEY, tensor)


@pytest.mark.parametrize(
    ("place", "file", "said"),
    [
        ((0, 2**40), "data", "cannot be read from it"),
        ((-1, 100), "data", "cannot be read from it"),
        ((0, 0), "data", "cannot be read from it"),
        ((2**20, 1000), "data", "cannot be read from it"),
        ((0, 1000), "nosuch", "No such file"),
    ],
)
def test_places_outside_of_the_file_are_refused(tmp_path: Path, place: tuple[int, int], file: str, said: str) -> None:
    stored(tmp_path, VALUES)
    with pytest.raises(CheckpointError, match=said):
        read_layer(tmp_path, KEY, StoredTensor((2, 3, 4), (piece(*WHOLE, place, file),)))


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (_StorageInfo("../data", 0, 9), "it has data in '../data', outside of its folder"),
        (_StorageInfo("/etc/passwd", 0, 9), "it has data in '/etc/passwd', outside of its folder"),
        (None, "is damaged"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, info: _StorageInfo | None, said: str) -> None:
    chunk = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 3]))
    tensor = TensorStorageMetadata(TensorProperties(), torch.Size([2, 3]), [chunk])
    index = Metadata({KEY: tensor}, storage_data={} if info is None else {MetadataIndex(KEY, (0, 0)): info})
    (tmp_path / ".metadata").write_bytes(pickle.dumps(index))
    (tmp_path / "common.pt").write_bytes(b"")
    (tmp_path / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    with pytest.raises(CheckpointError, match=re.escape(said)):
        read_places(tmp_path, ".linear_")
