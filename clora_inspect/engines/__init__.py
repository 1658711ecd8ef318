"""Profiles of serving engines: which adapters each of them loads. Pure.

A profile is a JSON file beside this one. It names the release that it was read from, the day and
the files of the engine's sources, so that messages can say which release they are about. Another
engine or a newer release needs a file and no code.
"""

from __future__ import annotations

from datetime import date
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
    version: str
    """The release whose behaviour the profile describes."""
    read_on: date
    """The day on which its sources were read."""
    read: tuple[str, ...]
    """The files of its repository that were read."""
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
    not_applied: dict[str, str]
    """Last name -> what it does with an adapter there, for linears that are not in `modules`. The
    sentence has no full stop.
    """
    head_model_types: frozenset[str] | None
    """Values of Hugging Face's `model_type` whose model class takes an adapter of `lm_head`. None
    if every class takes one.
    """
    no_head_model_types: frozenset[str]
    """Values of `model_type` whose model class takes none. The classes that are in neither set were
    not read.
    """
    expert_modules: str
    """`pairs` if it applies adapters of a layer's experts only where each projection has one."""
    expert_option: str | None
    """The command-line option without which it applies no adapters of experts."""

    @property
    def label(self) -> str:
        """Name and release, as messages show them."""
        return f"{self.title} {self.version}"


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
