"""The treemap of the page: boxes of the right sizes, which fill it and do not overlap."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clora_inspect.page.treemap import Rectangle, squarified

WHOLE = Rectangle(10, 20, 1180, 360)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(min_value=1e-4, max_value=1e6), min_size=1, max_size=25))
def test_boxes_fill_the_map_by_their_sizes(sizes: list[float]) -> None:
    sizes.sort(reverse=True)
    boxes = squarified(sizes, WHOLE)
    assert len(boxes) == len(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        area = WHOLE.width * WHOLE.height * size / sum(sizes)
        assert box.width * box.height == pytest.approx(area, rel=1e-6)
        assert box.x >= WHOLE.x - 1e-6
        assert box.y >= WHOLE.y - 1e-6
        assert box.x + box.width <= WHOLE.x + WHOLE.width + 1e-6
        assert box.y + box.height <= WHOLE.y + WHOLE.height + 1e-6
    for one, other in combinations(boxes, 2):
        across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
        down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
        assert min(across, down) < 1e-6


def test_equal_boxes_are_nearly_square() -> None:
    boxes = squarified([1.0] * 12, WHOLE)
    assert max(max(box.width / box.height, box.height / box.width) for box in boxes) < 1.7


def test_nothing_fills_nothing() -> None:
    assert squarified([], WHOLE) == []
