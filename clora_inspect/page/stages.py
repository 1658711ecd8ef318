"""The cluster: a row for each pipeline stage, and the shades of its expert ranks in the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count, size
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.memory import ADAM_STATES, ADAPTER_WEIGHT, GRADIENT, weight_bytes
from clora_inspect.job.rank_memory import RankMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from clora_inspect.job.cluster import Range
    from clora_inspect.job.plan import JobPlan, RankClass

MOST_CELLS = 128
"""Largest number of expert ranks that are drawn one by one. More are one band: their cells would be
narrower than the lines between them.
"""


@dataclass(frozen=True, slots=True)
class StageRow:
    """Ranks that hold the same. Numbers are those of one rank."""

    pp: int
    ranks: str
    count: int
    ep: str
    etp: str
    expert_ranks: int
    """Number of expert-parallel times expert-tensor-parallel ranks."""
    experts: str
    layers: str
    adapters: int
    trainable: int
    base_params: int
    base_bytes: int
    adapter_bytes: int
    """Weights, gradients and Adam's states of the adapters."""
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Shade:
    """One number of a stage: in words, and as a share of the largest stage's, in percent."""

    text: str
    percent: int


@dataclass(frozen=True, slots=True)
class Measure:
    """A number by which the stages can be shaded."""

    key: str
    """The end of the names of classes and ids in the page."""
    name: str
    shades: tuple[Shade, ...]
    """One for each row."""
    largest: str


def stage_rows(plan: JobPlan) -> list[StageRow]:
    """Return the rows, in the order of the stages."""
    return [_row(plan, ranks) for ranks in plan.rank_classes]


def measures(rows: Iterable[StageRow]) -> list[Measure]:
    """Return the numbers by which `rows` can be shaded; the first is shown at first."""
    rows = list(rows)
    found = []
    peaks = [row.peak_bytes for row in rows if row.peak_bytes is not None]
    if rows and len(peaks) == len(rows):
        found.append(_measure("peak", "peak memory", peaks, size))
    held = [row.base_bytes + row.adapter_bytes for row in rows]
    return [
        *found,
        _measure("bytes", "weights, gradients and Adam's states", held, size),
        _measure("params", "all parameters", [row.base_params + row.trainable for row in rows], count),
        _measure("trained", "trainable parameters", [row.trainable for row in rows], count),
    ]


def style_of(rows: Iterable[StageRow], shown: Iterable[Measure]) -> str:
    """Return the CSS of the cells. The switch needs no script: the style asks which one is on."""
    lines = {f".ranks-{row.expert_ranks}{{--ranks:{row.expert_ranks};flex-grow:{row.expert_ranks}}}\n" for row in rows}
    for measure in shown:
        on = f"#go\\:cluster:has(#go\\:by\\:{measure.key}:checked)"
        lines.add(f"{on} .by-{measure.key}{{display:inline}}\n")
        lines |= {f"{on} .{measure.key}-{shade.percent}{{--shade:{shade.percent}%}}\n" for shade in measure.shades}
    return "".join(sorted(lines))


def _measure(key: str, name: str, numbers: list[int], text: Callable[[int], str]) -> Measure:
    largest = max(numbers, default=0)
    shades = tuple(Shade(text(number), round(100 * number / largest) if largest else 0) for number in numbers)
    return Measure(key, name, shades, text(largest))


def _row(plan: JobPlan, ranks: RankClass) -> StageRow:
    return StageRow(
        pp=ranks.pp,
        ranks=", ".join(_range(members) for members in ranks.members[:3]) + (", …" if len(ranks.members) > 3 else ""),
        count=ranks.count,
        ep=_range(ranks.ep),
        etp=_range(ranks.etp),
        expert_ranks=_length(ranks.ep) * _length(ranks.etp),
        experts=_experts(ranks),
        layers=fold(plan.layers_of(ranks)),
        adapters=sum(1 for _ in ranks.placements),
        trainable=ranks.trainable_params,
        base_params=ranks.base_params,
        base_bytes=weight_bytes(ranks.base_params, plan.model.weights_dtype),
        adapter_bytes=ranks.trainable_params * (ADAPTER_WEIGHT + GRADIENT + ADAM_STATES),
        peak_bytes=ranks.memory.peak_bytes if isinstance(ranks.memory, RankMemory) else None,
    )


def _experts(ranks: RankClass) -> str:
    """Return `4 of 256` where the adapters of a stage know of experts."""
    facts = next((each.experts for each in ranks.placements if each.experts), None)
    return f"{count(facts.num_local_experts)} of {count(facts.num_experts)}" if facts else ""


def _range(each: Range) -> str:
    first, last = each
    return str(first) if first == last else f"{first}..{last}"


def _length(each: Range) -> int:
    first, last = each
    return max(1, last - first + 1)
