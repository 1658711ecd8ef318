"""The verdict of the gate in a file, by which a run answers `clora-inspect gate`. Pure."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from clora.folders.regular_file import read_regular_file
from clora_inspect.launch.settings import ANSWER_VARIABLE

_LARGEST = 1024
"""Bytes of an answer."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a run."""

    passed: bool
    ranks: int


def is_first_of_node() -> bool:
    """Return whether this is the first rank that a launcher has started on its node."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID")) == "0"


def write_answer(answer: Answer) -> str | None:
    """Answer `clora-inspect gate`, if it started this run; return a sentence if that fails."""
    path = os.environ.get(ANSWER_VARIABLE)
    if not path:
        return None
    try:
        Path(path).write_bytes(msgspec.json.encode(answer))
    except OSError as error:
        return (
            f"gate: clora-inspect gate cannot be told, and will say that the gate was never reached: {path} cannot be "
            f"written: {error.strerror or error}. Start it with TMPDIR on a file system that all nodes share."
        )
    return None


def read_answer(path: Path) -> Answer | None:
    """Return the answer of a run; None if it gave none."""
    try:
        return msgspec.json.decode(read_regular_file(path, _LARGEST), type=Answer)
    except (OSError, ValueError):
        return None
