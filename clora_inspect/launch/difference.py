"""`Difference`: one thing in which a run is not what was accepted. Pure data."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Topic(StrEnum):
    """The subject of a difference, in the order of a report. The values stand in JSON."""

    FILE = "file"
    """The file cannot be read, or ranks read different ones."""
    RANK = "rank"
    """The model of a rank cannot be read."""
    LAYOUT = "layout"
    BASE = "base"
    SETTINGS = "settings"
    ADAPTERS = "adapters"
    IN_EFFECT = "in effect"
    """Something was asked for and is not in effect: a base that should be frozen is trainable."""
    CONFIG = "config"
    VERSIONS = "versions"


class Difference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One difference on one rank."""

    topic: Topic
    text: str
    """The difference with its numbers; without a place."""
    where: str | None = None
    """Folded path of the modules: `decoder.layers.{0..15}.mlp.linear_fc2`."""


def ordered(differences: list[Difference]) -> tuple[Difference, ...]:
    """Return the differences in the order of a report."""
    order = list(Topic)
    return tuple(sorted(differences, key=lambda each: (order.index(each.topic), each.where or "", each.text)))
