"""What rounding alone explains. In a dtype of few bits some models amplify it, and then a
difference says nothing: that is said, and not failed.

A model is amplifying when its own output moves as far as the difference once its weights are
rounded otherwise.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.running import outputs_of
from clora_inspect.verify.outcome import NotRun
from clora_inspect.verify.proofs.compare import relative_error
from clora_inspect.verify.proofs.routing import Choices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from clora_inspect.verify.model.model_under_test import ModelUnderTest

TIMES = 2
"""A model that is rounded otherwise once is one draw of many: another may be so many times as far."""


def explained_by_rounding(model: ModelUnderTest, error: float, bound: float, *, routers_repeat: bool = False) -> None:
    """Called, on all ranks together, when a difference is above its bound and a proof is about to
    fail.

    Args:
        model: what is proved.
        error: the difference, the largest of all ranks.
        bound: what it was held to.
        routers_repeat: whether routers chose alike in what was compared.

    Raises:
        NotRun: rounding alone may have made the difference; never in fp32 or fp64.
    """
    choices = Choices(model.dtype, repeat=routers_repeat)
    if not choices.may_turn:
        return
    batch = model.batch()
    chunks = model.base()
    with choices.kept(chunks):
        first = outputs_of(chunks, batch)
    round_otherwise(chunks, model.seed)
    with choices.repeated(chunks):
        second = outputs_of(chunks, batch)
    moved = max(model.everywhere(relative_error(second, first)))
    if error <= TIMES * moved * bound / model.bound:
        raise NotRun(
            f"in {model.dtype_name} it cannot be told: rounding this model's weights otherwise moves its own output by {moved:.0e} of the "
            f"largest, and what was compared is {error:.0e} apart; --dtype float32 proves it"
        )


@torch.no_grad()
def round_otherwise(chunks: Sequence[nn.Module], seed: int) -> None:
    """Move every weight by half a unit in its last place, up or down at random; copies on other
    ranks move alike.
    """
    for chunk in chunks:
        for name, weight in chunk.named_parameters():
            generator = torch.Generator(device=weight.device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            up = torch.empty(weight.shape, device=weight.device).bernoulli_(0.5, generator=generator)
            weight.copy_(weight.double() * (1 + (2 * up - 1) * torch.finfo(weight.dtype).eps / 2))
