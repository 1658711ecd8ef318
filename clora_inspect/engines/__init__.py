"""Serving engines: what each of them loads of an adapter, as data files beside this one. Pure.

A profile says what the releases that we looked at do; a file for another engine, or a newer
release, needs no code.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec

from clora.errors import CloraError


class EngineError(CloraError):
    """There is no profile of the engine."""


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one engine loads of a LoRA adapter."""

    schema: int
    name: str
    title: str
    looked_at: str
    """The releases whose behaviour this is."""
    default_rank: int | None
    """The largest rank that it loads when it is not told otherwise; None when it takes the
    adapter's.
    """
    ranks: tuple[int, ...]
    """The largest ranks that it can be told; empty when any."""
    rank_option: str
    rank_pattern: bool
    """Whether it reads ranks and alphas that differ between modules."""
    modules: frozenset[str]
    """Last names of the Hugging Face linears whose adapters it applies."""
    expert_modules: str
    """`pairs`: of a layer's experts it applies both sides or none."""
    notes: tuple[str, ...] = ()


def names() -> list[str]:
    """The engines that have a profile."""
    return sorted(
        entry.name.removesuffix(".json") for entry in files(__name__).iterdir() if entry.name.endswith(".json")
    )


@cache
def load(name: str) -> Engine:
    """The profile of the engine called `name`.

    Raises:
        EngineError: there is none.
    """
    if name not in names():
        raise EngineError(f"no profile of the engine '{name}' is known; known: {', '.join(names())}.")
    return msgspec.json.decode(files(__name__).joinpath(f"{name}.json").read_bytes(), type=Engine)
