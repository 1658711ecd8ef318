"""Numbers as people read them: thousands separators, MiB and GiB, ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

UNITS = ("KiB", "MiB", "GiB", "TiB")


def count(number: int) -> str:
    """Write 41943040 as `41,943,040`."""
    return f"{number:,}"


def short_count(number: int) -> str:
    """Write 41943040 as `41.9 M`, for places that are narrow."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        # From 999,950 on, one digit after the point would round to 1000.0 K.
        if number >= size * 0.99995:
            return f"{number / size:.1f} {unit}"
    return str(number)


def size(num_bytes: float) -> str:
    """Write 10485760 bytes as `10.0 MiB`."""
    if num_bytes < 0:
        return f"-{size(-num_bytes)}"
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    amount, unit = num_bytes / 1024, UNITS[0]
    for larger in UNITS[1:]:
        # From 1023.95 on, one digit after the point would round to 1024.0.
        if amount < 1023.95:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}"


def change(before: int, after: int, arrow: str, noun: str = "") -> str:
    """Write a number that changed as `41,943,040 → 32,505,856 params (-22.5 %)`."""
    if before == after:
        return f"{count(after)}{noun}"
    share = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
    return f"{count(before)} {arrow} {count(after)}{noun}{share}"


def spread(values: Iterable[int], show: Callable[[int], str], dash: str) -> str:
    """Write one value where all ranks agree, else the smallest and the largest: `10 MiB to 12 MiB`.

    Never a mean: it would be the figure of no rank at all.
    """
    # Values are compared as text: if they differ only in digits that are not shown, they are equal.
    shown = list(dict.fromkeys(map(show, sorted(values))))
    return shown[0] if len(shown) == 1 else f"{shown[0]}{dash}{shown[-1]}"
