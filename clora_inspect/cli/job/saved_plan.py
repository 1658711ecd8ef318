"""Tell a saved plan from the other JSON files that a JOB can be, and read it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from clora_inspect.job.plan import JobPlan, decode

LARGEST_PLAN = 1 << 30
"""Bytes. The plan of a trillion parameters with every expert written out has less."""


class _Probe(msgspec.Struct):
    """What a plan has and no config.json has."""

    schema: msgspec.Raw
    rank_classes: msgspec.Raw


def saved_plan(name: str) -> JobPlan | None:
    """The plan in the file `name`; None where it is another kind of JOB, a config.json among them.

    Raises:
        ModelError: the file begins like a plan and is none.
        OSError: it cannot be read.
    """
    path = Path(name)
    if path.suffix != ".json" or not _is_small_file(path):
        return None
    data = path.read_bytes()
    try:
        msgspec.json.decode(data, type=_Probe)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return decode(data, name)


def _is_small_file(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size <= LARGEST_PLAN
    except (OSError, ValueError):
        return False
