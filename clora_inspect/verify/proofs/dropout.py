"""Prove LoRA's dropout itself. It is switched off in all other proofs, which compare runs with each
other.

Each adapted linear is called by itself, on the input that it has in the model, with factors that
show the mask (`masks.py`). Then the whole model runs with and without recomputation, from the same
random state.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.verify.model.model_under_test import all_sites
from clora_inspect.verify.model.randomness import seed_all
from clora_inspect.verify.model.running import Call, calls_of, outputs_of
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.compare import departure
from clora_inspect.verify.proofs.masks import Masks, check_position, check_ranks, check_tokens, check_values, masks_of
from clora_inspect.verify.proofs.recompute import compare_recomputed

if TYPE_CHECKING:
    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest
    from clora_inspect.verify.model.running import ModuleKey
    from clora_inspect.verify.model.sites import Site

DROPS = 200
"""Number of dropped values of one adapter that is waited for."""
FEWEST, MOST = 3, 32
"""Number of masks of one adapter."""


def prove(model: ModelUnderTest) -> Proved:
    """Look at the masks of each adapter; then compare recomputed gradients with the first ones."""
    from megatron.core import parallel_state as mpu

    adapted = model.dropping().adapted()
    _check_evaluation(model, adapted)
    seed_all(model.seed)
    calls = model.together(lambda: calls_of(adapted.chunks, [_key(site) for site in adapted.planned], model.batch()))
    own = {site.key: site for site in adapted.planned}
    here = mpu.get_pipeline_model_parallel_rank(), mpu.get_data_parallel_rank()
    seen = values = 0
    for stage, key in all_sites(model, adapted.planned):
        site = own.get(key) if stage == here[0] else None
        masks = model.together(partial(_masks, model, adapted, site, calls))
        everywhere = model.everywhere((here, masks))
        alike = [other for place, other in everywhere if place == here]
        if site is None or site.placement is None or site.placement.experts is not None:
            alike = []
        model.together(partial(check_ranks, alike, "" if site is None else site.at, model.lora.dropout_position))
        seen += any(other is not None for _, other in everywhere)
        values += 0 if masks is None else masks.ratios.numel()
    if not seen:
        raise NotRun("no linear's output is its base's plus the adapter's, so no mask can be seen")
    return Proved(detail=_detail(model, _recomputed(model)), tensors=len(own), elements=values)


def _detail(model: ModelUnderTest, labels: list[str]) -> str:
    side = "input" if model.lora.dropout_position == "pre" else "output"
    return (
        f"in training {model.dropout:g} of each adapter's {side} is dropped and the rest scaled, by a new mask each "
        "time; nothing in evaluation"
        + (f"; the same masks and gradients under {' and '.join(labels)}" if labels else "")
    )


def _recomputed(model: ModelUnderTest) -> list[str]:
    """Compare recomputed gradients, and return the settings under which they are equal."""
    # A function makes its own config, so recomputation cannot be switched on from outside.
    if model.definition.is_user_function:
        return []
    try:
        return compare_recomputed(model.dropping()).labels
    except NotRun:
        return []


def _check_evaluation(model: ModelUnderTest, adapted: AdaptedModel) -> None:
    without = model.adapted()
    expected = model.together(lambda: outputs_of(without.chunks, model.batch()))
    found = model.together(lambda: outputs_of(adapted.chunks, model.batch()))
    difference = departure(found, expected)
    if any(model.everywhere(difference is not None)):
        raise Refuted(
            "In evaluation the model with LoRA dropout must be the one without, and "
            f"{difference or 'outputs of another rank differ'}. Dropout belongs to training alone.",
            where=adapted.planned[0].at if len(adapted.planned) == 1 else None,
        )


def _masks(
    model: ModelUnderTest, adapted: AdaptedModel, site: Site | None, calls: dict[ModuleKey, Call]
) -> Masks | None:
    """Draw masks of one adapter and check each; None where none can be seen on this rank."""
    call = None if site is None else calls.get(_key(site))
    if site is None or call is None or site.placement is None:
        return None
    chunk = adapted.chunks[site.chunk]
    output = partial(call.output, is_router=site.placement.wrapper == "LoRATopKRouter")
    # The same number on all ranks, because calls communicate: it rests on whole sizes alone.
    tokens = model.batch().length * 4
    count = min(MOST, max(FEWEST, math.ceil(DROPS / (model.dropout * tokens))))
    with torch.no_grad():
        masks = masks_of(output, site, chunk.train, count)
    if masks is not None:
        check_values(masks, site.at, rate=model.dropout, dtype=model.dtype)
        check_position(masks, site.at, model.lora.dropout_position)
        if model.layout.sequence_parallel:
            check_tokens(masks, site.at, model.layout.tp)
        if model.ranks == 1:
            _check_gradient(model, site, output, chunk)
    return masks


def _check_gradient(model: ModelUnderTest, site: Site, output: Any, chunk: Any) -> None:
    """Compare the gradients of A and B under one mask with the differences that they predict.

    The delta is linear in A and in B. So with the same mask, the change of the output along any
    direction is exactly what the gradient says, however large the step.
    """
    chunk.train()
    generator = torch.Generator().manual_seed(model.seed)
    for name, factor in (("A", site.a), ("B", site.b)):
        chunk.zero_grad()
        seed_all(model.seed)
        out = output()
        weight = torch.randn(out.shape, generator=generator).to(out)
        (out * weight).sum().backward()
        if factor.grad is None:
            raise Refuted(f"{name} gets no gradient under dropout.", where=site.at)
        step = torch.randn(factor.shape, generator=generator).to(factor)
        expected = float((factor.grad.double() * step.double()).sum())
        with torch.no_grad():
            factor.add_(step)
            seed_all(model.seed)
            moved = output() - out
            factor.sub_(step)
        found = float((moved.double() * weight.double()).sum())
        size = float(moved.double().norm() * weight.double().norm()) or 1.0
        if abs(found - expected) > 10 * model.bound * size:
            raise Refuted(
                f"Under dropout the gradient of {name} is not the derivative of the output with the same mask: "
                f"{expected:.3e} against {found:.3e}.",
                where=site.at,
            )
    chunk.eval()


def _key(site: Site) -> ModuleKey:
    return site.chunk, site.module
