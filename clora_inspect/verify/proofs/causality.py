"""Prove that a later token never changes an earlier output, so that adapters look no further ahead
than the base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import is_prediction
from clora_inspect.verify.model.running import ModuleOutputs, Outputs, module_outputs, outputs_of
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.compare import size_of

if TYPE_CHECKING:
    import torch

    from clora_inspect.verify.model.batch import Batch
    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest


def prove(model: ModelUnderTest) -> Proved:
    """Change the last tokens and compare the outputs before them, in the base and with adapters."""
    # One row, changed from an odd position on: a delta that is reshaped over tokens mixes
    # neighbours, and then an earlier with a later one.
    batch = model.batch(rows=1)
    first_changed = batch.length - batch.length // 4 - 1
    changed = batch.with_changed(range(first_changed, batch.length), model.vocabulary)
    # The bound is tighter than in other proofs: both runs have the same weights and the same
    # earlier tokens, so almost nothing is rounded differently.
    bound = model.bound / 10
    base = model.base()
    outputs, others = outputs_of(base, batch), outputs_of(base, changed)
    # The last stage alone has outputs.
    model.together(lambda: _check_readable(outputs, batch.length))
    base_moved = _moved_before(first_changed, batch.length, outputs, others)
    if max(model.everywhere(base_moved)) > bound:
        raise NotRun(
            f"the base itself lets a later token change an earlier output (by {base_moved:.1e} of the largest)"
        )
    adapted = model.adapt(base)
    first, second = model.together(lambda: (outputs_of(adapted.chunks, batch), outputs_of(adapted.chunks, changed)))
    moved = _moved_before(first_changed, batch.length, first, second)
    if any(model.everywhere(moved > bound)):
        raise Refuted(
            f"Changing tokens from position {first_changed} on changes earlier outputs, by "
            f"{max(model.everywhere(moved)):.1e} of the largest: an adapter mixes tokens. The model learns from what "
            "it is to predict, and its loss means nothing.",
            where=_first_leak(adapted, batch, changed, first_changed, bound),
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


def _token_dim(output: torch.Tensor, length: int) -> int | None:
    """Return the dim of one row's output that counts tokens; None where neither of the first two
    does. megatron-core's outputs are `[length, rows, ...]`, those of wrappers often
    `[rows, length, ...]`.
    """
    return next((dim for dim, size in enumerate(output.shape[:2]) if size == length), None)


def _check_readable(outputs: Outputs, length: int) -> None:
    for output in outputs:
        if _token_dim(output, length) is None:
            raise NotRun(
                f"cannot read this output: for 1 row of {length} tokens it is {list(output.shape)}, and neither of its "
                "first two dims counts tokens"
            )


def _moved_before(position: int, length: int, first: Outputs, second: Outputs) -> float:
    """Return the largest change before `position`, relative to the largest value."""
    worst = 0.0
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        # The k-th prediction layer (counted from 0; the model itself comes last) has seen k + 1
        # tokens more.
        ahead = number + 1 if number < len(first) - 1 else 0
        earlier = position - ahead
        if earlier > 0:
            dim = _token_dim(a, length) or 0
            before, after = (each.narrow(dim, 0, earlier).double() for each in (a, b))
            worst = max(worst, (before - after).abs().max().item() / (a.abs().max().item() or 1.0))
    return worst


def _first_leak(adapted: AdaptedModel, batch: Batch, changed: Batch, first_changed: int, bound: float) -> str | None:
    """Return the path of the first adapted linear whose own output changes too early."""
    # Routed experts see the tokens in the router's order, not in the sequence's.
    paths = [(site.chunk, site.module) for site in adapted.planned if ".experts." not in site.module]

    def run(tokens: Batch) -> ModuleOutputs:
        with module_outputs(adapted.chunks, paths) as collected:
            outputs_of(adapted.chunks, tokens)
        return collected

    before, after = run(batch), run(changed)
    for key, tensor in before.items():
        # Only outputs [length, rows, features] of the decoder: prediction layers are ahead.
        if tensor.dim() != 3 or tensor.shape[0] != batch.length or is_prediction(key[1]):
            continue
        change = (tensor - after[key]).abs()
        if change[:first_changed].max().item() > bound * (tensor.abs().max().item() or 1.0):
            return key[1]
    return None
