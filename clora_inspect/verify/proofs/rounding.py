"""Find out whether rounding alone explains a difference. Shared by proofs with a bound.

In bf16 and fp16 some models amplify rounding. Then a difference above the bound says nothing about
the adapters, and the proof is reported as not run instead of failed. A model amplifies if rounding
its weights in another way moves its own output as far as the difference.
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

MARGIN = 2
"""Factor by which another rounding may move the output farther than the one that is tried."""


def check_not_rounding(model: ModelUnderTest, error: float, bound: float, *, routers_repeat: bool = False) -> None:
    """Check that rounding does not explain a difference above its bound, before a proof fails.
    Called on all ranks together.

    Args:
        model: the model that is proved.
        error: the difference, the largest of all ranks.
        bound: the bound that it is above.
        routers_repeat: whether routers repeated their choices in the two runs of the proof.

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
    round_again(chunks, model.seed)
    with choices.repeated(chunks):
        second = outputs_of(chunks, batch)
    moved = max(model.everywhere(relative_error(second, first)))
    # `bound` may be a multiple of the model's own bound; rounding is allowed the same multiple.
    if error <= MARGIN * moved * bound / model.bound:
        raise NotRun(
            f"in {model.dtype_name} it cannot be told: rounding this model's weights in another way moves its own "
            f"output by {moved:.0e} of the largest, and what was compared is {error:.0e} apart; --dtype float32 "
            "proves it"
        )


@torch.no_grad()
def round_again(chunks: Sequence[nn.Module], seed: int) -> None:
    """Move every weight up or down by half a unit in its last place, at random. Copies on other
    ranks move in the same way.
    """
    for chunk in chunks:
        for name, weight in chunk.named_parameters():
            generator = torch.Generator(device=weight.device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            up = torch.empty(weight.shape, device=weight.device).bernoulli_(0.5, generator=generator)
            weight.copy_(weight.double() * (1 + (2 * up - 1) * torch.finfo(weight.dtype).eps / 2))
