"""A later token never changes an earlier output: the adapters see no further ahead than the base
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.running import Outputs, module_outputs, outputs_of
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.compare import size_of

if TYPE_CHECKING:
    from clora_inspect.verify.model.batch import Batch
    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest


def prove(model: ModelUnderTest) -> Proved:
    """Change the last tokens; outputs before them stay, in a base that is causal itself."""
    # One row, and an odd position: a delta that is reshaped over tokens mixes neighbours, which are
    # then earlier and later ones.
    batch = model.batch(rows=1)
    first_changed = batch.length - batch.length // 4 - 1
    other = batch.with_another(range(first_changed, batch.length), model.vocabulary)
    base = model.base()
    base_moved = _moved(outputs_of(base, batch), outputs_of(base, other), first_changed)
    bound = model.bound / 10
    if max(model.everywhere(base_moved)) > bound:
        raise NotRun(
            f"the base itself lets a later token change an earlier output (by {base_moved:.1e} of the largest)"
        )
    adapted = model.adapt(base)
    first, second = model.together(lambda: (outputs_of(adapted.chunks, batch), outputs_of(adapted.chunks, other)))
    moved = _moved(first, second, first_changed)
    if any(model.everywhere(moved > bound)):
        where = _leak(adapted, batch, other, first_changed, bound)
        raise Refuted(
            f"Changing tokens from position {first_changed} on changes earlier outputs, by {max(model.everywhere(moved)):.1e} of the largest: an "
            "adapter mixes tokens. The model learns from what it is to predict, and its loss means nothing.",
            where=where,
            largest_error=moved,
            bound=bound,
        )
    tensors, elements = size_of(first)
    return Proved(
        detail=f"other tokens from position {first_changed} on leave earlier outputs alone",
        tensors=tensors,
        elements=elements,
        largest_error=moved,
        bound=bound,
    )


def _moved(first: Outputs, second: Outputs, first_changed: int) -> float:
    """Largest change before the changed tokens, relative to the largest value. Prediction layer k
    has seen k + 1 tokens more.
    """
    worst = 0.0
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        ahead = number + 1 if number < len(first) - 1 else 0
        earlier = first_changed - ahead
        if earlier > 0:
            largest = a.abs().max().item() or 1.0
            worst = max(worst, (a[:earlier].double() - b[:earlier].double()).abs().max().item() / largest)
    return worst


def _leak(adapted: AdaptedModel, batch: Batch, other: Batch, first_changed: int, bound: float) -> str | None:
    """The first adapted linear whose own output moves too early; its first dim is the sequence, or
    all tokens in that order.
    """
    paths = [(site.chunk, site.module) for site in adapted.planned if ".experts." not in site.module]
    seen: list[dict[tuple[int, str], torch.Tensor]] = []
    for each in (batch, other):
        with module_outputs(adapted.chunks, paths) as collected:
            outputs_of(adapted.chunks, each)
        seen.append(dict(collected))
    for key, tensor in seen[0].items():
        change = (tensor - seen[1][key]).abs()
        if tensor.dim() != 3 or tensor.shape[0] != batch.length or key[1].startswith("mtp."):
            continue
        if change[:first_changed].max().item() > bound * (tensor.abs().max().item() or 1.0):
            return key[1]
    return None
