"""Let the ranks of a run agree on a verdict, with a fixed number of collectives of fixed size.

Nothing here grows with the number of ranks. Equal differences are sent once, by the first rank that
has them, and counted on the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import distributed

from clora.all_ranks import is_parallel, own_rank
from clora_inspect.launch.difference import Difference
from clora_inspect.machine.faults import RankLostError, first_sentence

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.launch.live import LiveRank

MOST_GROUPS = 8
"""Sets of differences that a report shows. Ranks with a further one are counted only."""

_LETTER = 64 * 1024
"""Bytes of a message from one rank to all. What does not fit is left out, which the report says."""

_HEADER = 16
_NOBODY = 2**62


class RankGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks that differ from what is expected in the same way."""

    first_rank: int
    stage: int
    """Pipeline stage of the first rank."""
    ranks: int
    """Number of ranks."""
    differences: tuple[Difference, ...]
    left_out: int = 0
    """Differences that did not fit in the message."""


class _Letter(msgspec.Struct, frozen=True, kw_only=True):
    stage: int
    differences: tuple[Difference, ...]
    left_out: int = 0


class Ranks:
    """The ranks of the job, which all call the same methods in the same order."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.are_several = is_parallel()
        self.rank = own_rank()
        self.size = distributed.get_world_size() if self.are_several else 1

    def are_equal(self, digest: str) -> bool:
        """Return whether all ranks have the same digest, in hexadecimal."""
        number = int(digest[:15], 16)
        largest, smallest_negated = self._reduce([number, -number], distributed.ReduceOp.MAX)
        return largest == -smallest_negated

    def any_of(self, flag: bool) -> bool:
        """Return whether any rank has set the flag."""
        return bool(self._reduce([int(flag)], distributed.ReduceOp.MAX)[0])

    def any_of_each(self, flags: Sequence[bool]) -> list[bool]:
        """Return, entry by entry, whether any rank has set the flag; equally many on all ranks."""
        found = torch.tensor(flags, dtype=torch.uint8, device=self._device)
        if self.are_several:
            self._send(distributed.all_reduce, found, op=distributed.ReduceOp.MAX)
        return [bool(flag) for flag in found.tolist()]

    def sum_of(self, number: int) -> int:
        """Return the sum of a number over all ranks."""
        return self._reduce([number], distributed.ReduceOp.SUM)[0]

    def facts_of_rank_0(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """Return the facts of rank 0; None if they are too many for a message."""
        data = msgspec.json.encode(facts)
        _, read = self._read_letter(data if len(data) <= _LETTER - _HEADER else b"", 0, sender=0)
        return msgspec.json.decode(read) if read else None

    def groups(self, differences: tuple[Difference, ...], stage: int) -> tuple[list[RankGroup], int]:
        """Return the sets of differences of all ranks, and how many ranks have a further one."""
        own = _digest(differences)
        letter = _fitting(differences, stage)
        is_told = not differences
        told: list[tuple[int, _Letter]] = []
        joined = [0] * (MOST_GROUPS + 1)
        for number in range(MOST_GROUPS):
            # The largest of negatives, because one kind of reduction is enough for everything here.
            sender = -self._reduce([-(_NOBODY if is_told else self.rank)], distributed.ReduceOp.MAX)[0]
            # All rounds run, so that the number of collectives is the same whatever was found.
            digest, read = self._read_letter(letter, own, sender=0 if sender == _NOBODY else sender)
            if sender != _NOBODY:
                told.append((sender, msgspec.json.decode(read, type=_Letter)))
                if not is_told and digest == own:
                    is_told, joined[number] = True, 1
        joined[MOST_GROUPS] = int(not is_told)
        counts = self._reduce(joined, distributed.ReduceOp.SUM)
        groups = [
            RankGroup(
                first_rank=sender, stage=each.stage, ranks=count, differences=each.differences, left_out=each.left_out
            )
            for (sender, each), count in zip(told, counts, strict=False)
        ]
        return groups, counts[MOST_GROUPS]

    def _send(self, collective: Callable[..., Any], tensor: torch.Tensor, **arguments: Any) -> None:
        """Call one collective.

        Raises:
            RankLostError: another rank died, or did not come within the process group's time limit.
        """
        try:
            collective(tensor, **arguments)
        except RuntimeError as error:
            raise RankLostError(
                f"rank {self.rank} of {self.size} waited for the others, and one died or did not come in time: "
                f"{first_sentence(str(error))}."
            ) from error

    def _reduce(self, numbers: list[int], how: Any) -> list[int]:
        tensor = torch.tensor(numbers, dtype=torch.int64, device=self._device)
        if self.are_several:
            self._send(distributed.all_reduce, tensor, op=how)
        return [int(number) for number in tensor.tolist()]

    def _read_letter(self, data: bytes, digest: int, *, sender: int) -> tuple[int, bytes]:
        """Return digest and message of `sender`. They travel in a buffer of fixed size, behind the
        length of the message.
        """
        if not self.are_several:
            return digest, data
        header = digest.to_bytes(8, "little") + len(data).to_bytes(8, "little")
        tensor = torch.frombuffer(bytearray((header + data).ljust(_LETTER, b"\0")), dtype=torch.uint8)
        tensor = tensor.to(self._device)
        self._send(distributed.broadcast, tensor, src=sender)
        read = bytes(tensor.cpu().numpy())
        length = int.from_bytes(read[8:_HEADER], "little")
        return int.from_bytes(read[:8], "little"), read[_HEADER : _HEADER + length]


def facts_of(live: LiveRank) -> dict[str, Any]:
    """Return the facts that are the same on all ranks of a job."""
    return {"config": live.config, "versions": live.versions, "layout": live.layout.sizes()}


def _fitting(differences: tuple[Difference, ...], stage: int) -> bytes:
    """Return the message that tells as many differences as fit."""
    kept = len(differences)
    while True:
        letter = _Letter(stage=stage, differences=differences[:kept], left_out=len(differences) - kept)
        data = msgspec.json.encode(letter)
        if len(data) <= _LETTER - _HEADER:
            return data
        kept //= 2


def _digest(differences: tuple[Difference, ...]) -> int:
    return int(hashlib.sha256(msgspec.json.encode(differences)).hexdigest()[:15], 16)
