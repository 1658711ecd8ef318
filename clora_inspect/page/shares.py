"""Where parameters go: the boxes of the two treemaps, of the adapters and of the base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.formats.plan.rows import sections
from clora_inspect.rules.linears import linears_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.job.plan import JobPlan

Sizes = dict[str, dict[tuple[str, bool], int]]
"""Place in the model -> name of a linear, and whether it is adapted -> parameters."""

GRAIN = 1000
"""Sizes of boxes are told to the browser in thousandths."""


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a column of a treemap."""

    name: str
    params: int
    percent: float
    grow: int
    adapted: bool = True


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a treemap; its width is its share."""

    name: str
    params: int
    percent: float
    grow: int
    boxes: tuple[Box, ...]


def shares(plan: JobPlan) -> tuple[list[Column], list[Column]]:
    """Return the treemaps of the whole model: of its trainable parameters, and of the base's."""
    return _columns(_trained(plan), plan.totals.trainable_params), _columns(_base(plan), plan.totals.base_params)


def style_of(columns: Iterable[Column]) -> str:
    """Return a CSS rule for each size. The policy of the page forbids `style` attributes."""
    sizes = {grow for column in columns for grow in (column.grow, *(box.grow for box in column.boxes))}
    return "".join(f".g{grow}{{flex-grow:{grow}}}\n" for grow in sorted(sizes))


def _trained(plan: JobPlan) -> Sizes:
    found: Sizes = {}
    for section, rows in sections(plan):
        held = found.setdefault(section.place, {})
        for row in rows:
            held[row.name, True] = held.get((row.name, True), 0) + row.params
    return found


def _base(plan: JobPlan) -> Sizes:
    """Return the weights of the linears, and the rest.

    A plan counts embeddings, norms and biases in its total only.
    """
    found: Sizes = {}
    # The names by which targets address a linear depend on `gated`; its weight does not.
    for linear in linears_of(plan, gated=True):
        name = f"{linear.last_name}[{linear.part}]" if linear.part else linear.last_name
        held = found.setdefault(linear.place, {})
        key = name, linear.placement is not None
        held[key] = held.get(key, 0) + linear.weight_params
    rest = plan.totals.base_params - sum(sum(held.values()) for held in found.values())
    if rest > 0:
        found["the rest"] = {("embeddings, norms, biases and others", False): rest}
    return found


def _columns(sizes: Sizes, total: int) -> list[Column]:
    """Return the columns and their boxes, the largest first. Empty ones are left out."""
    columns = []
    for place, held in sizes.items():
        params = sum(held.values())
        if params:
            boxes = [
                Box(name, number, 100 * number / total, _grow(number, params), adapted)
                for (name, adapted), number in held.items()
                if number
            ]
            boxes.sort(key=lambda box: -box.params)
            columns.append(Column(place, params, 100 * params / total, _grow(params, total), tuple(boxes)))
    return sorted(columns, key=lambda column: -column.params)


def _grow(part: int, whole: int) -> int:
    return max(1, round(GRAIN * part / whole))
