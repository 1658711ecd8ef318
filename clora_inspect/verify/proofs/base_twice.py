"""Prove that the base, run twice, gives the same bits. Otherwise "identical to the base" would mean
nothing.
"""

from __future__ import annotations

from clora_inspect.verify.model.model_under_test import ModelUnderTest
from clora_inspect.verify.model.running import ForwardFailed, outputs_of
from clora_inspect.verify.outcome import Proved, Refuted
from clora_inspect.verify.proofs.compare import departure, is_finite, size_of


def prove(model: ModelUnderTest) -> Proved:
    """Run the base twice on the same tokens and compare the outputs."""
    chunks = model.base()
    batch = model.batch()
    try:
        first = model.together(lambda: outputs_of(chunks, batch))
    except ForwardFailed as failed:
        raise does_not_run(failed) from failed
    second = outputs_of(chunks, batch)
    # NaN differs from itself, so this comes before the comparison.
    if not is_finite(first):
        raise Refuted("The base model's output is not finite, so nothing can be compared with it.")
    if (difference := departure(first, second)) is not None:
        raise Refuted(
            "The base model does not equal itself: run twice on the same tokens its outputs differ "
            f"({difference}). Something in it draws random numbers or sums in a changing order: set "
            "torch.use_deterministic_algorithms, or switch dropout off."
        )
    tensors, elements = size_of(first)
    return Proved(
        detail="two runs of the base give the same bits", tensors=tensors, elements=elements, largest_error=0.0
    )


def does_not_run(failed: ForwardFailed) -> Refuted:
    reason = str(failed).rstrip(".")
    return Refuted(
        f"The model does not run before anything is done to it: {reason}. It is called as megatron-core's "
        "language models are, with tokens, positions, a mask and `labels=`.",
        where=failed.where,
    )
