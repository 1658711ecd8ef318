"""Prove that gradients reach every adapter and nothing else, and are those of LoRA's definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.merging import Factors, factors_of, merge_factors
from clora_inspect.verify.model.running import backward
from clora_inspect.verify.model.sites import SiteKey, placement_key, rows_here, weights_of
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.compare import relative_error
from clora_inspect.verify.proofs.expected_gradients import check_gradients
from clora_inspect.verify.proofs.rounding import check_not_rounding
from clora_inspect.verify.proofs.routing import Choices

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest


def prove(model: ModelUnderTest) -> Proved:
    """Run one backward. On one rank, also compare with the gradients that follow from those of
    merged weights by the chain rule.
    """
    # B is random too: with B = 0 the gradient of A is zero.
    adapted = model.adapted()
    if not any(model.everywhere(any(not adapted.unfed.holds(site) for site in adapted.sites))):
        raise NotRun(f"no adapter can be judged{model.unfed.note}")
    choices = Choices(model.dtype)
    with choices.kept(adapted.chunks):
        model.together(lambda: backward(adapted.chunks, model.batch()))
    tensors, elements = check_gradients(adapted)
    worst = _compare_with_definition(model, adapted, choices) if model.ranks == 1 else None
    return Proved(
        detail="every A and B gets a finite gradient that is not zero, the base gets none"
        + (f", and they are those of merged weights by the chain rule{choices.note}" if worst is not None else "")
        + model.unfed.note,
        tensors=tensors,
        elements=elements,
        largest_error=worst,
        bound=None if worst is None else model.bound * 10,
    )


def _compare_with_definition(model: ModelUnderTest, adapted: AdaptedModel, choices: Choices) -> float | None:
    """Compare with the gradients of LoRA's definition.

    Returns:
        The largest error; None where they cannot be computed.

    For y = (W + s B A) x they are dA = s B^T dW and dB = s dW A^T, where dW is the gradient of the
    merged weight, taken at the rows of the canonical part.
    """
    factors = factors_of(adapted.planned)
    merged = model.base()
    weights = _merged_weights(merged, factors)
    if weights is None:
        return None
    with choices.repeated(merged):
        backward(merged, model.batch())
    # The bound is wider than for outputs: a gradient is rounded in the forward and in the backward,
    # and is a sum over all tokens.
    worst, bound = 0.0, model.bound * 10
    for site, each in zip(adapted.planned, factors, strict=True):
        own = weights[placement_key(each.placement)]
        expected = _expected(merged[site.chunk], each, own, shared=site.a.dim() == 2)
        for name, parameter, gradient in zip("AB", (site.a, site.b), expected, strict=True):
            found = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            error = relative_error([found], [gradient])
            if error > bound:
                check_not_rounding(model, error, bound, routers_repeat=True)
                raise Refuted(
                    f"The gradient of {name} is not that of LoRA's definition: {error:.1e} of its largest entry apart, "
                    f"and rounding explains {bound:.0e}. The adapter would learn in another direction than its loss "
                    "says.",
                    where=site.at,
                    largest_error=error,
                    bound=bound,
                )
            worst = max(worst, error)
    return worst


def _merged_weights(base: list[nn.Module], factors: list[Factors]) -> dict[SiteKey, list[nn.Parameter]] | None:
    """Merge the factors into the base and let the merged weights alone have gradients.

    Returns:
        The weights of each adapter's linear. None if a linear borrows the embedding's weight: the
        gradients of the two cannot be told apart.
    """
    for chunk in base:
        chunk.requires_grad_(False)
    weights = {
        placement_key(each.placement): weights_of(base[each.placement.chunk], each.placement.module) for each in factors
    }
    if merge_factors(base, factors):
        return None
    for own in weights.values():
        for weight in own:
            weight.requires_grad_(True)
    return weights


def _expected(
    chunk: nn.Module, factors: Factors, weights: list[nn.Parameter], *, shared: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of A and B that follow from those of the merged weights.

    Args:
        chunk: the merged chunk, after its backward.
        factors: A and B.
        weights: the linear's weights; one for each expert of grouped experts.
        shared: whether all experts share the factors, whose gradients are then summed.
    """
    placement = factors.placement
    rows = rows_here(chunk, placement)
    chosen = None if rows is None else [number for number, (part, _) in enumerate(rows) if part == placement.part]
    scale = placement.alpha / placement.dim
    grads_a, grads_b = [], []
    for expert, weight in enumerate(weights):
        a, b = (factor[expert] if factor.dim() == 3 else factor for factor in (factors.a, factors.b))
        grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        grad = (grad if chosen is None else grad[chosen]).double()
        grads_a.append(scale * b.double().T @ grad)
        grads_b.append(scale * grad @ a.double().T)
    all_a, all_b = torch.stack(grads_a), torch.stack(grads_b)
    return (all_a.sum(0), all_b.sum(0)) if shared else (all_a, all_b)
