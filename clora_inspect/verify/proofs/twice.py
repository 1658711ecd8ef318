"""Prove that a second application of surgery is refused or leaves the model as it is: it never
nests adapters, and never freezes those of the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.model.sites import parameters_of
from clora_inspect.verify.outcome import Proved, Refuted

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.model_under_test import ModelUnderTest


def prove(model: ModelUnderTest) -> Proved:
    """Compare what is trainable before and after a second application."""
    adapted = model.adapted(random_a=False)
    before = _trainable(adapted.chunks)
    with quiet():
        chunks = model.implementation.apply_again(adapted.chunks, model.lora)
    # By name: adapters that were nested would have other names, and frozen ones would be missing.
    after = _trainable(chunks)
    if after != before:
        raise Refuted(
            f"Applied a second time (as a resumed script does), surgery leaves {len(after)} of {len(before)} "
            "adapter tensors trainable without a word: "
            + ("the run would train nothing." if not after else "the run would train something else."),
            where=next(iter(sorted(before ^ after)), "").partition(".adapter.")[0] or None,
        )
    return Proved(
        detail=f"a second application leaves {len(before)} trainable tensors as they are", tensors=len(before)
    )


def _trainable(chunks: list[nn.Module]) -> set[str]:
    return {name for name, parameter in parameters_of(chunks) if parameter.requires_grad}
