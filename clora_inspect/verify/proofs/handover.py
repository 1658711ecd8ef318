"""Prove that the stages of a user's model hand on states that megatron-core's pipeline schedules
can exchange, and find the length of rows for which a pipeline and one rank compute the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.verify.model.handover import row_lengths
from clora_inspect.verify.model.running import ForwardFailed
from clora_inspect.verify.outcome import Proved
from clora_inspect.verify.proofs.base_twice import does_not_run

if TYPE_CHECKING:
    from clora_inspect.verify.model.model_under_test import ModelUnderTest


def prove(model: ModelUnderTest) -> Proved:
    """Run the stages one after another, without a schedule."""
    try:
        found = row_lengths(model, model.length)
    except ForwardFailed as failed:
        raise does_not_run(failed) from failed
    return Proved(
        detail=f"states of {found.states} tokens for rows of {found.tokens}", lengths=(found.tokens, found.states)
    )
