"""Look at the dropout mask of one adapter through the output of its linear, and check it. Used by
the proof `dropout`.

The factors are replaced by ones that show the mask: A picks a few inputs, and each row of B passes
on one of them, each with another gain. Every value of the delta is then zero, or `1 / (1 - p)`
times what it is without dropout. A mask of the adapter's input ("pre") drops all columns that pass
on the same input together; a mask of its output ("post") does not.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.shards import positions
from clora_inspect.verify.outcome import Refuted
from clora_inspect.verify.proofs.compare import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clora_inspect.verify.model.sites import Site

INPUTS = 4
"""Number of inputs of a linear that its factors pick."""
GAIN = 64.0
"""Size of the delta, beside a base output of about 1: large, so that rounding does not hide it."""
VISIBLE = 0.05
"""Share of a delta's largest value from which a value is large enough to be divided by."""
COLUMNS = 64
"""Largest number of columns of a linear's output that are looked at."""
SIGMAS = 6
"""Standard deviations of a binomial distribution that a number of drops may be away."""
FEWEST_DROPS = 10
"""Number of dropped values from which two equal masks are no chance."""

SAME_MASK = (
    "Tensor-parallel ranks hold different values here and draw the same mask: their random state is the common one, "
    "and should be each rank's own (megatron-core's get_cuda_rng_tracker().fork())."
)


@dataclass(frozen=True, slots=True)
class Masks:
    """Effect of several masks of one adapter on its delta."""

    plain: torch.Tensor
    """The delta without dropout, `[tokens, columns]`."""
    ratios: torch.Tensor
    """The delta of each mask, divided by `plain`, `[masks, tokens, columns]`."""
    visible: torch.Tensor
    """Where `plain` is large enough to be divided by, `[tokens, columns]`."""

    @property
    def dropped(self) -> torch.Tensor:
        """True for each value that is dropped, `[masks, tokens, columns]`."""
        return (self.ratios.abs() < 0.5) & self.visible

    @property
    def drops(self) -> int:
        return int(self.dropped.sum())

    def directions(self) -> torch.Tensor:
        """Return the columns of `plain` without their gains: equal for equal inputs."""
        lengths = self.plain.square().sum(0, keepdim=True).sqrt()
        return self.plain / lengths.clamp_min(1e-30)


def masks_of(call: Callable[[], torch.Tensor], site: Site, train: Callable[[bool], object], count: int) -> Masks | None:
    """Draw `count` masks. Called on all ranks of a linear together, because calls communicate.

    Args:
        call: runs the adapted linear and returns its output.
        site: its adapter.
        train: switches the model to training mode, or to evaluation.
        count: number of masks.

    Returns:
        The masks. None if the output is not base plus delta, as behind a norm, or has no delta.
    """
    train(False)
    with factors_that_show(site, gain=0.0):
        base = call()
    with factors_that_show(site, gain=2 * GAIN):
        double = call() - base
    with factors_that_show(site, gain=GAIN):
        plain = call() - base
        train(True)
        drawn = torch.stack([call() - base for _ in range(count)])
        train(False)
    if not plain.numel() or not bool(plain.abs().max() > 0) or relative_error([double], [2 * plain]) > VISIBLE:
        return None
    plain, drawn = plain.flatten(0, -2).float().cpu(), drawn.flatten(1, -2).float().cpu()
    columns = (plain.abs().max(0).values > VISIBLE * plain.abs().max()).nonzero().flatten()[:COLUMNS]
    plain, drawn = plain[:, columns], drawn[..., columns]
    visible = plain.abs() > VISIBLE * plain.abs().max()
    return Masks(plain, drawn / torch.where(visible, plain, torch.ones(())), visible)


@contextmanager
def factors_that_show(site: Site, *, gain: float) -> Iterator[None]:
    """Replace A and B inside by factors that show a mask."""
    placement = site.placement
    if placement is None:
        raise KeyError(site.at)
    a, b = torch.zeros(placement.a_global_shape), torch.zeros(placement.b_global_shape)
    picked = max(1, min(INPUTS, a.shape[-2], a.shape[-1], b.shape[-2] // 2))
    for number in range(picked):
        a[..., number, number * a.shape[-1] // picked] = 1.0
        b[..., number::picked, number] = 1.0
    # Each row has a gain of its own, so that two ranks know whether they hold the same columns.
    b *= gain * placement.dim / placement.alpha * torch.linspace(1.0, 2.0, b.shape[-2])[:, None]
    originals = site.a.detach().clone(), site.b.detach().clone()
    with torch.no_grad():
        site.a.copy_(a.reshape(-1)[positions(site, "a")])
        site.b.copy_(b.reshape(-1)[positions(site, "b")])
    try:
        yield
    finally:
        with torch.no_grad():
            site.a.copy_(originals[0])
            site.b.copy_(originals[1])


def check_values(masks: Masks, at: str, *, rate: float, dtype: torch.dtype) -> None:
    """Check that values are dropped at the rate, each time others, and the rest is scaled.

    Raises:
        Refuted: they are not.
    """
    dropped, visible = masks.dropped, masks.visible.expand_as(masks.dropped)
    if bool(dropped[0].any()) and bool((dropped == dropped[0]).all()):
        raise Refuted("Every forward draws the same mask: the same values are never trained.", where=at)
    number = int(visible.sum())
    expected = number * rate
    # Columns of one input are dropped together, so the independent draws are fewer.
    spread = SIGMAS * math.sqrt(expected * (1 - rate) * max(1, masks.plain.shape[1] // INPUTS))
    if abs(masks.drops - expected) > spread:
        raise Refuted(
            f"In training {masks.drops / number:.1%} of the values are dropped, and dropout = {rate:g}.", where=at
        )
    scale, kept = 1 / (1 - rate), masks.ratios[visible & ~dropped]
    found = float(kept.double().mean()) if kept.numel() else scale
    # A mean is rounded less than its values.
    near = max(1e-4, torch.finfo(dtype).eps)
    if abs(found / scale - 1) > near or bool(((kept / scale - 1).abs() > max(1e-2, 8 * near)).any()):
        raise Refuted(
            f"Values that are kept are {found:.4g} times what they are without dropout, and 1 / (1 - {rate:g}) is "
            f"{scale:.4g}: training would scale the adapter in another way than evaluation.",
            where=at,
        )


def check_position(masks: Masks, at: str, position: str) -> None:
    """Check on which side of the adapter values are dropped, where several columns show it.

    Raises:
        Refuted: on the other side, or whole tokens are dropped.
    """
    if not masks.drops:
        return
    directions = masks.directions()
    alike = (directions.T @ directions) > 1 - 1e-3
    first = alike.float().argmax(0)
    dropped, visible = masks.dropped, masks.visible
    both = visible & visible[:, first]
    together = bool((dropped == dropped[..., first])[both.expand_as(dropped)].all())
    several = bool((first != torch.arange(len(first))).any())
    if several and together != (position == "pre"):
        sides = ("output", "input") if position == "pre" else ("input", "output")
        raise Refuted(
            f'dropout_position = "{position}" drops values of the adapter\'s {sides[1]}, and here values of its '
            f"{sides[0]} are dropped.",
            where=at,
        )
    if position == "pre":
        for one, other in combinations(sorted(set(first.tolist())), 2):
            if _are_same(dropped[..., one], dropped[..., other], visible[:, one] & visible[:, other]):
                raise Refuted("Two inputs of the adapter are always dropped together, as if they were one.", where=at)


def check_tokens(masks: Masks, at: str, ranks: int) -> None:
    """Check that sequence-parallel ranks do not draw one mask for their parts of the tokens, where
    the output holds the tokens of all of them.

    Raises:
        Refuted: they do.
    """
    if masks.plain.shape[0] % ranks:
        return
    parts = zip(masks.dropped.chunk(ranks, 1), masks.visible.chunk(ranks), strict=True)
    for (one, seen), (other, other_seen) in pairwise(parts):
        if _are_same(one, other, seen & other_seen):
            raise Refuted(SAME_MASK, where=at)


def _are_same(one: torch.Tensor, other: torch.Tensor, both: torch.Tensor) -> bool:
    """Return whether two masks of different values are the same, and not by chance.

    Args:
        one: where values are dropped, `[masks, ...]`.
        other: the same of other values.
        both: where both can be seen, `[...]`.
    """
    return int(one[:, both].sum()) >= FEWEST_DROPS and torch.equal(one[:, both], other[:, both])


def check_ranks(every: list[Masks | None], at: str, position: str) -> None:
    """Compare the masks of tensor-parallel ranks: equal where they hold equal values, else not.

    Raises:
        Refuted: they are not.
    """
    known = [masks for masks in every if masks is not None and masks.drops]
    for one, other in pairwise(known):
        if one.plain.shape[0] != other.plain.shape[0]:
            continue
        ones, others = (one.directions(), other.directions()) if position == "pre" else (one.plain, other.plain)
        # The largest difference of each pair of columns.
        apart = torch.cdist(ones.T, others.T, p=math.inf)
        pairs = apart < 1e-2 * float(ones.abs().max())
        left = pairs.any(1).nonzero().flatten()
        right = pairs[left].float().argmax(1)
        both = one.visible[:, left] & other.visible[:, right]
        if bool(((one.dropped[..., left] != other.dropped[..., right]) & both).any()):
            raise Refuted(
                "Tensor-parallel ranks hold the same values here and draw different masks of them: each rank would "
                "continue with other activations.",
                where=at,
            )
        alike = one.dropped.shape == other.dropped.shape and not bool(pairs.any())
        if alike and _are_same(one.dropped, other.dropped, one.visible & other.visible):
            raise Refuted(SAME_MASK, where=at)
