"""Gradients reach every adapter and nothing else, and are those of LoRA's definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.running import backward
from clora_inspect.verify.model.sites import factors_of, fold, rows_here, weights_of
from clora_inspect.verify.outcome import Proved, Refuted
from clora_inspect.verify.proofs.compare import relative_error
from clora_inspect.verify.proofs.expected_gradients import check_gradients
from clora_inspect.verify.proofs.rounding import explained_by_rounding
from clora_inspect.verify.proofs.routing import Choices

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest
    from clora_inspect.verify.model.sites import Factors, Site


def prove(model: ModelUnderTest) -> Proved:
    """One backward; on one rank also against the gradients that follow from those of merged weights
    by the chain rule.
    """
    adapted = model.adapted()
    choices = Choices(model.dtype)
    with choices.kept(adapted.chunks):
        model.together(lambda: backward(adapted.chunks, model.batch()))
    tensors, elements = check_gradients(adapted)
    worst = _against_definition(model, adapted, choices) if model.ranks == 1 else None
    return Proved(
        detail="every A and B gets a finite gradient that is not zero, the base gets none"
        + (f", and they are those of merged weights by the chain rule{choices.said}" if worst is not None else ""),
        tensors=tensors,
        elements=elements,
        largest_error=worst,
        bound=None if worst is None else model.bound * 10,
    )


def _against_definition(model: ModelUnderTest, adapted: AdaptedModel, choices: Choices) -> float:
    """Of y = (W + s B A) x the gradients are dA = s B^T dW and dB = s dW A^T, with dW the gradient
    of the merged weight's rows of the part.
    """
    factors = factors_of(adapted.planned)
    merged = model.base()
    for chunk in merged:
        chunk.requires_grad_(False)
    weights = {
        each.placement.at + str(each.placement.chunk): weights_of(merged[each.placement.chunk], each.placement.module)
        for each in factors
    }
    left_out = set(fold(merged, factors))
    for own in weights.values():
        for weight in own:
            weight.requires_grad_(True)
    if left_out:
        return 0.0
    with choices.repeated(merged):
        backward(merged, model.batch())
    worst, bound = 0.0, model.bound * 10
    for site, each in zip(adapted.planned, factors, strict=True):
        own = weights[each.placement.at + str(each.placement.chunk)]
        for name, parameter, expected in zip(
            "AB", (site.a, site.b), _expected(merged[site.chunk], each, own, site), strict=True
        ):
            error = relative_error(
                [parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)], [expected]
            )
            if error > bound:
                explained_by_rounding(model, error, bound, routers_repeat=True)
                raise Refuted(
                    f"The gradient of {name} is not that of LoRA's definition: {error:.1e} of its largest entry apart, "
                    f"and rounding explains {bound:.0e}. "
                    "The adapter would learn in another direction than its loss says.",
                    where=site.at,
                    largest_error=error,
                    bound=bound,
                )
            worst = max(worst, error)
    return worst


def _expected(
    chunk: nn.Module, factors: Factors, weights: list[nn.Parameter], site: Site
) -> tuple[torch.Tensor, torch.Tensor]:
    placement = factors.placement
    rows = rows_here(chunk, placement.module, placement.part, placement)
    chosen = None if rows is None else [number for number, (part, _) in enumerate(rows) if part == placement.part]
    scale = placement.alpha / placement.dim
    of_a, of_b = [], []
    for expert, weight in enumerate(weights):
        a, b = (factor[expert] if factor.dim() == 3 else factor for factor in (factors.a, factors.b))
        grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        grad = (grad if chosen is None else grad[chosen]).double()
        of_a.append(scale * b.double().T @ grad)
        of_b.append(scale * grad @ a.double().T)
    if site.a.dim() == 3:
        return torch.stack(of_a), torch.stack(of_b)
    return torch.stack(of_a).sum(0), torch.stack(of_b).sum(0)
