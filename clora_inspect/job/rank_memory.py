"""`RankMemory`: the account of one rank's peak memory. Pure data."""

from __future__ import annotations

from typing import Literal

import msgspec

Part = Literal["weights", "gradients", "optimizer", "activations", "transient", "buffers", "allowance"]


class MemoryLine(msgspec.Struct, frozen=True, kw_only=True, rename={"source": "from"}):
    """One line of the account."""

    part: Part
    what: str
    bytes: int
    source: str
    """Where the number comes from, in words."""
    counted: bool
    """True if it was counted from real modules, False if it rests on an assumption."""


class RankMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The peak of one rank in bytes, and its parts, which add up to it."""

    peak_bytes: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    """Kept for the backward, by all micro-batches in flight at the peak."""
    transient_bytes: int
    """What the forward or backward that runs at the peak needs beside what is kept."""
    buffers_bytes: int
    allowance_bytes: int
    lines: tuple[MemoryLine, ...] = ()


def account(lines: tuple[MemoryLine, ...]) -> RankMemory:
    """Return the account with these lines."""

    def total(part: Part) -> int:
        return sum(line.bytes for line in lines if line.part == part)

    return RankMemory(
        peak_bytes=sum(line.bytes for line in lines),
        weights_bytes=total("weights"),
        gradients_bytes=total("gradients"),
        optimizer_bytes=total("optimizer"),
        activations_bytes=total("activations"),
        transient_bytes=total("transient"),
        buffers_bytes=total("buffers"),
        allowance_bytes=total("allowance"),
        lines=lines,
    )
