"""Profiles of serving engines: which adapters each of them loads. Pure.

A profile is a JSON file beside this one. It describes the releases that we looked at, so another
engine or a newer release needs a file and no code.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec

from clora.errors import CloraError


class EngineError(CloraError):
    """No profile of the engine exists."""


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The profile of one engine."""

    schema: int
    name: str
    title: str
    """The engine's name as messages show it."""
    looked_at: str
    """The releases whose behaviour the profile describes."""
    default_rank: int | None
    """The largest rank that it loads without `rank_option`; None if it takes the adapter's."""
    ranks: tuple[int, ...]
    """The values that `rank_option` can have; empty if it can have any."""
    rank_option: str
    """The command-line option that sets the largest rank."""
    rank_pattern: bool
    """True if it reads ranks and alphas that differ between modules."""
    modules: frozenset[str]
    """Last names of the Hugging Face linears whose adapters it applies."""
    expert_modules: str
    """`pairs` if it applies either both adapters of a layer's experts or none."""
    notes: tuple[str, ...] = ()


def names() -> list[str]:
    """Return the names of the engines that have a profile, sorted."""
    return sorted(
        entry.name.removesuffix(".json") for entry in files(__name__).iterdir() if entry.name.endswith(".json")
    )


@cache
def load(name: str) -> Engine:
    """Read the profile of the engine called `name`.

    Raises:
        EngineError: no profile of that name exists.
    """
    # The name comes from a configuration: only one of the list may become a path.
    if name not in names():
        raise EngineError(f"no profile of the engine '{name}' is known; known: {', '.join(names())}.")
    return msgspec.json.decode(files(__name__).joinpath(f"{name}.json").read_bytes(), type=Engine)
