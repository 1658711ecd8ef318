"""Measure and describe how far two lists of tensors are apart. Shared by the proofs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from clora_inspect.verify.model.running import Outputs


def size_of(outputs: Outputs) -> tuple[int, int]:
    """Return the number of tensors, and of elements over all of them."""
    return len(outputs), sum(output.numel() for output in outputs)


def is_finite(outputs: Outputs) -> bool:
    return all(bool(torch.isfinite(output).all()) for output in outputs)


def identical(first: Outputs, second: Outputs) -> bool:
    """Return whether two lists of tensors are bit-identical."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def relative_error(first: Outputs, second: Outputs) -> float:
    """Return the largest difference, relative to the largest value of `second`; infinity where the
    shapes differ or a value is not finite.
    """
    worst = 0.0
    if len(first) != len(second):
        return float("inf")
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape or not torch.isfinite(a).all() or not torch.isfinite(b).all():
            return float("inf")
        # If all values of b are zero, the difference itself is the error.
        largest = b.abs().max().item() or 1.0
        worst = max(worst, (a.double() - b.double()).abs().max().item() / largest)
    return worst


def departure(first: Outputs, second: Outputs) -> str | None:
    """Describe how far two lists of tensors are apart; return None when they are identical."""
    if identical(first, second):
        return None
    if len(first) != len(second) or any(a.shape != b.shape for a, b in zip(first, second, strict=True)):
        return f"{[tuple(a.shape) for a in first]} against {[tuple(b.shape) for b in second]}"
    largest = max((a.double() - b.double()).abs().max().item() for a, b in zip(first, second, strict=True))
    changed = sum(int((a != b).sum()) for a, b in zip(first, second, strict=True))
    return f"{changed:,} of {size_of(first)[1]:,} values differ, by at most {largest:.2e}, {_ulps(first, second)}"


def _ulps(first: Outputs, second: Outputs) -> str:
    """Return the largest difference in units in the last place, with the unit."""
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if a.is_floating_point():
            finfo = torch.finfo(a.dtype)
            larger = torch.maximum(a.abs(), b.abs()).double().clamp_min(finfo.tiny)
            unit = finfo.eps * 2.0 ** torch.floor(torch.log2(larger))
            worst = max(worst, ((a.double() - b.double()).abs() / unit).max().item())
    return f"{worst:.0f} ulp"


def changed_columns(first: torch.Tensor, second: torch.Tensor) -> list[int]:
    """Return the indices of the last dim in which any value differs."""
    different = (first != second).reshape(-1, first.shape[-1]).any(0)
    return [int(index) for index in different.nonzero().flatten()]


def ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers in short, such as `0..31, 64..71`; at most four ranges."""
    # Within a run of consecutive numbers, number minus position stays the same.
    runs = [list(run) for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    texts = [f"{run[0][1]}..{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs]
    if not texts:
        return "none"
    return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")
