"""Where parameters go: the boxes of the two treemaps, of the adapters and of the base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.formats.plan.rows import sections
from clora_inspect.page.treemap import Rectangle, squarified
from clora_inspect.rules.linears import linears_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.job.plan import JobPlan

Sizes = dict[str, dict[tuple[str, bool], int]]
"""Place in the model -> name of a linear, and whether it is adapted -> parameters."""

WIDE, NARROW = Rectangle(0, 0, 1180, 360), Rectangle(0, 0, 360, 480)
"""A treemap on a wide and on a narrow screen, in pixels: the style gives it these heights."""

HEAD = 20
"""Height in pixels of the name above the boxes of a place, in the style as well."""

SMALLEST = 1e-4
"""Smallest share of a treemap that is drawn: an area of 6 x 7 pixels. Its table has all."""


@dataclass(frozen=True, slots=True)
class Box:
    """A linear in a place of the model."""

    name: str
    params: int
    percent: float
    adapted: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the model and its boxes, the largest first."""

    name: str
    params: int
    percent: float
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Treemap:
    """Parameters of the whole model by place, the largest first."""

    id: str
    title: str
    places: tuple[Place, ...]

    @property
    def drawn(self) -> list[tuple[Place, list[Box]]]:
        """The places that are drawn, and their boxes that are drawn."""
        return [
            (place, [box for box in place.boxes if box.percent >= 100 * SMALLEST])
            for place in self.places
            if place.percent >= 100 * SMALLEST
        ]


def treemaps(plan: JobPlan) -> tuple[Treemap, Treemap]:
    """Return the treemaps of the trainable parameters, and of those of the base model."""
    return (
        Treemap("trained", "Trainable parameters", _places(_trained(plan), plan.totals.trainable_params)),
        Treemap("base", "Parameters of the base model", _places(_base(plan), plan.totals.base_params)),
    )


def style_of(maps: Sequence[Treemap]) -> str:
    """Return the CSS that places the boxes. The policy of the page forbids `style` attributes."""
    rules = "".join(_rules(each, WIDE) for each in maps)
    narrow = "".join(_rules(each, NARROW) for each in maps)
    return f"{rules}@media (max-width: 40rem) {{\n{narrow}}}\n"


def _rules(treemap: Treemap, whole: Rectangle) -> str:
    drawn = treemap.drawn
    lines = []
    places = squarified([place.percent for place, _ in drawn], whole)
    for number, ((_, boxes), place) in enumerate(zip(drawn, places, strict=True)):
        lines.append(_rule(f"{treemap.id}-{number}", place, whole))
        inside = Rectangle(0, 0, place.width, max(1, place.height - HEAD))
        for at, box in enumerate(squarified([box.percent for box in boxes], inside)):
            lines.append(_rule(f"{treemap.id}-{number}-{at}", box, inside))
    return "".join(lines)


def _rule(name: str, box: Rectangle, around: Rectangle) -> str:
    left, width = 100 * box.x / around.width, 100 * box.width / around.width
    top, height = 100 * box.y / around.height, 100 * box.height / around.height
    return f".{name}{{left:{left:.2f}%;top:{top:.2f}%;width:{width:.2f}%;height:{height:.2f}%}}\n"


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


def _places(sizes: Sizes, total: int) -> tuple[Place, ...]:
    """Return the places and their boxes, the largest first. Empty ones are left out."""
    places = []
    # A plan of somebody else may say that the whole is nothing.
    total = max(1, total)
    for name, held in sizes.items():
        params = sum(held.values())
        if params > 0:
            boxes = [
                Box(linear, number, 100 * number / total, adapted)
                for (linear, adapted), number in held.items()
                if number > 0
            ]
            boxes.sort(key=lambda box: -box.params)
            places.append(Place(name, params, 100 * params / total, tuple(boxes)))
    return tuple(sorted(places, key=lambda place: -place.params))
