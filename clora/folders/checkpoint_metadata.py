"""Read which tensors a megatron-core distributed checkpoint holds, without trusting it.

torch keeps the index of such a checkpoint, `.metadata`, as a pickle, and unpickling can run any
code. So before torch opens it, this module reads it with an unpickler that knows the classes of an
index and refuses every other name.
"""

from __future__ import annotations

import io
import pickle
import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from clora.errors import CheckpointError
from clora.folders.regular_file import read_regular_file, require_regular_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

T = TypeVar("T")

INDEX = ".metadata"
FORMAT = "metadata.json"
"""The file in which megatron-core names the format of a checkpoint."""
LARGEST_FORMAT = 1024 * 1024
"""Bytes. It has two short fields."""
COMMON = "common.pt"
"""The file of what is no tensor. megatron-core 0.19 and newer keep that among the tensors, under a
key that begins with `COMMON_KEY`.
"""
COMMON_KEY = "common_state"
COMPLETE = (FORMAT, COMMON, INDEX)
"""Files that a checkpoint of megatron-core has beside its data."""
LARGEST_INDEX = 256 * 1024 * 1024
"""Bytes. An index has a few hundred bytes per tensor and shard, so that of adapters is smaller."""

# The names in the indexes that torch 2.6 and later write. Python 3.13 has its paths in
# `pathlib._local`.
_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {
        "BytesIOWriteData",
        "SavePlan",
        "TensorWriteData",
        "WriteItem",
        "WriteItemType",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "device"},
    "collections": {"OrderedDict"},
    "builtins": {"dict", "list", "set", "tuple"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePosixPath"},
}


class _IndexReader(pickle.Unpickler):
    """An unpickler that makes the objects of an index and no others."""

    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and name.removeprefix("u").startswith(("float", "bfloat", "int", "bool", "complex"))
        if dtype or name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which the index of a checkpoint has no use for")


# The names that megatron-core's optimizers and training scripts use.
_BESIDE_THE_MODEL = re.compile(
    r"(?:chained_\d+\.)?(?:optimizer|optim)\b|opt_param_scheduler|rng_state|rerun_state_machine|.*\b_extra_state\b"
)


def is_beside_the_model(key: str) -> bool:
    """Return whether a tensor is one that a trainer saves beside the model, such as its moments."""
    return _BESIDE_THE_MODEL.match(key) is not None


class SavedTensor(NamedTuple):
    """One tensor of a checkpoint."""

    shape: tuple[int, ...]
    """The full shape, with the axes that megatron-core puts in front: the layer, the expert."""
    starts: tuple[tuple[int, ...], ...]
    """For each dim the indexes at which a saved piece begins, in order; `(0,)` for a whole one."""


def read_tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return key -> full shape of every tensor in the checkpoint at `folder`.

    Raises:
        CheckpointError: there is no complete checkpoint, or its index is damaged or names a class
            that an index does not need.
    """
    return _of_index(folder, lambda tensors: {key: _ints(tensor.size) for key, tensor in tensors.items()})


def read_pieces(folder: Path, only: str) -> dict[str, SavedTensor]:
    """Return key -> tensor for the model's tensors in the checkpoint whose key contains `only`.

    Raises:
        CheckpointError: as `read_tensors`.
    """

    def pieces(tensors: dict[str, Any]) -> dict[str, SavedTensor]:
        return {
            key: SavedTensor(
                _ints(tensor.size),
                tuple(
                    tuple(sorted({int(chunk.offsets[dim]) for chunk in tensor.chunks}))
                    for dim in range(len(tensor.size))
                ),
            )
            for key, tensor in tensors.items()
            if only in key and not is_beside_the_model(key)
        }

    return _of_index(folder, pieces)


class StoredPiece(NamedTuple):
    """A piece of a tensor, and where its bytes are."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    """Name of a file in the folder of the checkpoint."""
    offset: int
    length: int


class StoredTensor(NamedTuple):
    """One tensor of a checkpoint with the places of its pieces."""

    shape: tuple[int, ...]
    pieces: tuple[StoredPiece, ...]


def read_places(folder: Path, only: str) -> dict[str, StoredTensor]:
    """Return key -> tensor for the model's tensors in the checkpoint whose key contains `only`.

    Raises:
        CheckpointError: as `read_tensors`, or a piece is nowhere, outside of the folder, or stored
            in a way that only torch's own reader knows.
    """

    # Everything of the index is foreign, and wrong types are told as damage by `_read_index`.
    def places(index: Any) -> dict[str, StoredTensor]:
        stored = {(str(at.fqn), _ints(at.offset or ())): place for at, place in index.storage_data.items()}
        return {
            key: StoredTensor(
                _ints(tensor.size),
                tuple(_piece(chunk, stored[key, _ints(chunk.offsets)]) for chunk in tensor.chunks),
            )
            for key, tensor in _tensors(index).items()
            if only in key and not is_beside_the_model(key)
        }

    return _read_index(folder, places)


def _piece(chunk: Any, place: Any) -> StoredPiece:
    name = str(place.relative_path)
    if "/" in name or name in {"", ".", ".."}:
        raise ValueError(f"it has data in {name[:60]!r}, outside of its folder")
    if vars(place).get("transform_descriptors"):
        raise ValueError("its data is compressed or encrypted, which is read by the program that wrote it only")
    return StoredPiece(_ints(chunk.offsets), _ints(chunk.sizes), name, int(place.offset), int(place.length))


def _ints(sizes: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in sizes)


def _of_index(folder: Path, read: Callable[[dict[str, Any]], T]) -> T:
    """Return what `read` makes of key -> torch's record of each tensor in the index of `folder`."""
    return _read_index(folder, lambda index: read(_tensors(index)))


def _tensors(index: Any) -> dict[str, Any]:
    return {
        str(key): tensor
        for key, tensor in index.state_dict_metadata.items()
        if type(tensor).__name__ == "TensorStorageMetadata"
    }


def _read_index(folder: Path, read: Callable[[Any], T]) -> T:
    """Return what `read` makes of torch's `Metadata` of the checkpoint at `folder`."""
    index = folder / INDEX
    if not folder.is_dir():
        raise CheckpointError(f"{str(folder)!r} is no folder, so no complete distributed checkpoint is there.")
    missing = [name for name in COMPLETE if not (folder / name).exists()]
    incomplete = f"{folder} is no complete distributed checkpoint: it lacks {', '.join(missing)}."
    if missing and missing != [COMMON]:
        raise CheckpointError(incomplete)
    _require_readable(folder)
    try:
        data = read_regular_file(index, LARGEST_INDEX)
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror or error}.") from None
    try:
        loaded = _IndexReader(io.BytesIO(data)).load()
        found = read(loaded)
        holds_common = any(str(key).startswith(COMMON_KEY) for key in loaded.state_dict_metadata)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{index} is damaged or no index of a checkpoint: {str(error).rstrip('.')}.") from error
    if missing and not holds_common:
        raise CheckpointError(incomplete)
    return found


def why_not_read(error: BaseException) -> str:
    """Return a sentence about an error of megatron-core or torch while it reads a checkpoint.

    It has nothing of their own texts, which hold tracebacks of every rank, ask to report a bug of
    torch, and advise to let a damaged file run code.
    """
    error = first_failure(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}."
    return f"a file in it is damaged ({type(error).__name__})."


def first_failure(error: BaseException) -> BaseException:
    """Return the error of the first rank that torch's `CheckpointException` holds, or `error`."""
    failures = getattr(error, "failures", None)
    return next(iter(failures.values()))[0] if failures else error


def _require_readable(folder: Path) -> None:
    """Raise if a file of the checkpoint is one that must not be opened.

    megatron-core and torch open all others by name: a pipe among them would let them wait forever.
    """
    try:
        read_regular_file(folder / FORMAT, LARGEST_FORMAT)
        for child in sorted(folder.iterdir()):
            if not child.is_dir():
                require_regular_file(child)
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder} cannot be read: {error.strerror or error}.") from None
