"""Find the checkpoint that a path means, and say what a folder is that holds none.

Names of files and the index are read, no tensor.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from clora.errors import CheckpointError
from clora.folders.checkpoint_metadata import FORMAT, INDEX, LARGEST_FORMAT, read_tensors
from clora.folders.regular_file import read_beginning, read_regular_file

LATEST = "latest_checkpointed_iteration.txt"
"""File that megatron's training scripts keep beside the folders of iterations."""

BACKEND = "torch_dist"
"""The format of megatron-core's checkpoints that can be compared, as `metadata.json` names it."""

_LOOKED_AT = 10_000
"""Names in a folder that are looked at, so that a folder of millions of files costs no time."""


class Checkpoint(NamedTuple):
    """A complete distributed checkpoint."""

    folder: Path
    tensors: dict[str, tuple[int, ...]]
    """Key -> full shape."""


class _Format(msgspec.Struct, frozen=True):
    """The fields of `metadata.json`."""

    sharded_backend: str


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the index of the checkpoint that `path` means: the folder itself, or its latest
    iteration.

    Raises:
        CheckpointError: it is not a distributed checkpoint; the message says what it is and what to
            do.
    """
    folder = _latest(path)
    try:
        _refuse_other_formats(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror or error}.") from None
    return Checkpoint(folder.resolve(), read_tensors(folder))


def _refuse_other_formats(folder: Path) -> None:
    if not folder.exists():
        raise CheckpointError(f"there is no folder {folder}.")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder. Name the folder of the checkpoint, which holds {INDEX}.")
    names = _names(folder)
    if INDEX in names and FORMAT in names:
        _refuse_other_backend(folder)
        return
    if any(name.endswith(".safetensors") for name in names):
        raise CheckpointError(
            f"{folder} has Hugging Face weights, and the base is loaded from a distributed checkpoint of "
            "megatron-core. Convert it once, with Megatron-Bridge: AutoBridge.import_ckpt(FOLDER, NEW), then name NEW."
        )
    if any(name.startswith("mp_rank_") for name in names):
        raise CheckpointError(
            f"{folder} is a checkpoint of one pickle for each rank, which is never opened: a pickle can run "
            "any code. Save it again with --ckpt-format torch_dist."
        )
    if INDEX in names and any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            f"{folder} is a checkpoint of torch's own format, without {FORMAT}: --ckpt-format fsdp_dtensor or "
            "torch_dcp wrote it, and its names are those of one wrapper. Save it again with --ckpt-format torch_dist."
        )
    iterations = sorted(name for name in names if name.startswith("iter_"))
    if iterations:
        raise CheckpointError(
            f"{folder} has iterations and no {LATEST}, which names the latest. Name one: {folder / iterations[-1]}."
        )


def _refuse_other_backend(folder: Path) -> None:
    path = folder / FORMAT
    try:
        backend = msgspec.json.decode(read_regular_file(path, LARGEST_FORMAT), type=_Format).sharded_backend
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from None
    if backend != BACKEND:
        raise CheckpointError(
            f"{folder} has the format {backend[:40]!r}, and only {BACKEND!r} can be read. Save it again with "
            "--ckpt-format torch_dist."
        )


def _names(folder: Path) -> set[str]:
    names: set[str] = set()
    for child in folder.iterdir():
        names.add(child.name)
        if len(names) >= _LOOKED_AT:
            break
    return names


def _latest(path: Path) -> Path:
    file = path / LATEST
    try:
        is_there = file.exists()
    except OSError as error:
        raise CheckpointError(f"{str(path)[:200]} cannot be read: {error.strerror or error}.") from None
    if not is_there:
        return path
    # Cut once more: the message below quotes it.
    iteration = _beginning(file).decode(errors="replace").strip()[:32]
    if iteration.isdecimal():
        return path / f"iter_{int(iteration):07d}"
    if iteration == "release":
        return path / iteration
    raise CheckpointError(f"{path}: {LATEST} says {iteration!r}, which is not an iteration.")


def _beginning(file: Path) -> bytes:
    try:
        # A wrong file may hold anything, and any amount of it.
        return read_beginning(file, 256)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from None
