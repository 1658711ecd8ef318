"""The text that rank 0 prints, once for the whole run. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.launch.difference import Topic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.launch.agreement import RankGroup
    from clora_inspect.launch.expected import Expected

_MOST_LINES = 40
"""Differences that are printed for one group of ranks."""

_TITLES = {
    Topic.FILE: "the file",
    Topic.RANK: "the rank",
    Topic.LAYOUT: "layout",
    Topic.BASE: "base model",
    Topic.SETTINGS: "LoRA",
    Topic.ADAPTERS: "adapters",
    Topic.IN_EFFECT: "not in effect",
    Topic.CONFIG: "config",
    Topic.VERSIONS: "versions",
}


def same(expected: Expected | None, ranks: int, adapters: int) -> str:
    """Return the line for a run that is as expected."""
    if expected is None:
        agree = " agree with each other" if ranks > 1 else ""
        return f"gate: {_ranks(ranks)}{agree}, with {adapters:,} adapters on rank 0."
    totals = expected.snapshot.totals
    return (
        f"gate: {_ranks(ranks)} as expected by {expected.name}: {totals.placements:,} adapters, "
        f"{totals.params:,} parameters."
    )


def differs(name: str, ranks: int, groups: list[RankGroup], untold: int) -> str:
    """Return the report on a run that differs."""
    return "\n".join(_lines(name, ranks, groups, untold))


def _lines(name: str, ranks: int, groups: list[RankGroup], untold: int) -> Iterator[str]:
    number = sum(group.ranks for group in groups) + untold
    yield f"gate: {number} of {_ranks(ranks)} differ{'s' if number == 1 else ''} from {name}"
    for group in groups:
        yield f"  {_who(group)}"
        for difference in group.differences[:_MOST_LINES]:
            where = f"{difference.where}: " if difference.where else ""
            yield f"    {_TITLES[difference.topic]}: {where}{difference.text}"
        hidden = len(group.differences[_MOST_LINES:]) + group.left_out
        if hidden:
            yield f"    and {hidden:,} more differences"
    if untold:
        yield f"  and {_ranks(untold)} with further differences"
    yield "The run ends before its first step. If it is right and the file is not, accept it anew and start again."


def _who(group: RankGroup) -> str:
    if group.ranks == 1:
        return f"rank {group.first_rank} (stage {group.stage})"
    return f"{group.ranks} ranks, the first is rank {group.first_rank} (stage {group.stage})"


def _ranks(number: int) -> str:
    return f"{number:,} rank{'' if number == 1 else 's'}"
