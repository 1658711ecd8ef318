"""Prove that the job's layout gives what one rank gives: the same adapters, split as the job splits
them, have the same outputs and the same whole gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.model.running import Outputs, backward, joined_rows
from clora_inspect.verify.model.shards import Part, assembled, part_of
from clora_inspect.verify.model.single_rank import single_rank
from clora_inspect.verify.outcome import Proved, Refuted
from clora_inspect.verify.proofs.compare import relative_error
from clora_inspect.verify.proofs.expected_gradients import check_gradients, gradient_of
from clora_inspect.verify.proofs.rounding import check_not_rounding

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest

Gradients = dict[str, torch.Tensor]
"""Gradients of whole factors, by name."""


def prove(model: ModelUnderTest) -> Proved:
    """Compare one training step on the layout with the same step on one rank. Gradients are reduced
    by megatron-core's data-parallel wrapper.
    """
    outputs, gradients = _step(model)
    _check_initial_values(model)
    with single_rank():
        expected_outputs, expected_gradients = _step(model.on_single_rank())
    worst = max(
        _compare_outputs(model, outputs, expected_outputs),
        _compare_gradients(model, gradients, expected_gradients),
    )
    return Proved(
        detail=f"outputs and whole gradients on {model.layout.label} are those of one rank; copies of a factor agree"
        + model.unfed.note,
        tensors=len(expected_gradients) + len(expected_outputs),
        elements=sum(gradient.numel() for gradient in expected_gradients.values()),
        largest_error=worst,
        bound=10 * model.bound,
    )


def _compare_outputs(model: ModelUnderTest, found: Outputs, expected: Outputs) -> float:
    error = relative_error(found, expected) if found else 0.0
    if error > model.bound:
        check_not_rounding(model, error, model.bound)
        raise Refuted(
            f"On {model.layout.label} the adapted model's outputs are not those of one rank: {error:.1e} of the "
            f"largest apart, and rounding explains {model.bound:.0e}.",
            largest_error=error,
            bound=model.bound,
        )
    return error


def _compare_gradients(model: ModelUnderTest, found: Gradients, expected: Gradients) -> float:
    worst, bound = 0.0, 10 * model.bound
    for name, gradient in expected.items():
        if name not in found:
            raise Refuted("On the layout this factor is nowhere.", where=_where(name))
        error = relative_error([found[name]], [gradient])
        if error > bound:
            check_not_rounding(model, error, bound)
            raise Refuted(
                f"On {model.layout.label} the gradient of {name[-1].upper()} is not that of one rank: {error:.1e} of "
                f"its largest entry apart{_ratio(found[name], gradient)}. A sum over ranks is missing or made twice.",
                where=_where(name),
                largest_error=error,
                bound=bound,
            )
        worst = max(worst, error)
    return worst


def _step(model: ModelUnderTest) -> tuple[Outputs, Gradients]:
    """Run one training step; return outputs of the whole batch and reduced whole gradients, on
    every rank.
    """
    from megatron.core.distributed import finalize_model_grads

    adapted = model.adapted()
    wrapped = _data_parallel(adapted.chunks)
    outputs = model.together(lambda: backward(wrapped, model.batch()))
    finalize_model_grads(wrapped)
    model.together(lambda: check_gradients(adapted))
    gradients = [
        part_of(site, factor, gradient)
        for site in adapted.planned
        for factor, parameter in (("a", site.a), ("b", site.b))
        if (gradient := gradient_of(parameter)) is not None
    ]
    parts = [part for parts in model.everywhere(gradients) for part in parts]
    whole, wrong = assembled(parts, bound=10 * model.bound)
    if wrong:
        raise Refuted(f"Gradients: {wrong}. Replicated factors would drift apart during training.", where=_where(wrong))
    return _whole_outputs(model, outputs), whole


def _check_initial_values(model: ModelUnderTest) -> None:
    """Check values as surgery leaves them: copies of a factor agree bit by bit, and the parts of a
    split A differ from each other.
    """
    everywhere = model.everywhere(_initial_parts(model.adapted(random_a=False)))
    _, wrong = assembled([part for parts in everywhere for part in parts], bound=0.0)
    if wrong:
        raise Refuted(
            f"First values: {wrong}. Ranks that should hold the same factor start from different ones.",
            where=_where(wrong),
        )
    # Name of a split A -> the first position of each part, and its values.
    known: dict[str, dict[int, torch.Tensor]] = {}
    for name, _, where, values in (part for parts in everywhere for part in parts):
        if not name.endswith(".a") or not values.numel():
            continue
        others = known.setdefault(name, {})
        start = int(where[0])
        if any(torch.equal(other, values) for other_start, other in others.items() if other_start != start):
            raise Refuted(
                "Two ranks start from the same part of A, and should hold different parts of it.",
                where=_where(name),
            )
        others[start] = values


def _initial_parts(adapted: AdaptedModel) -> list[Part]:
    return [
        part_of(site, factor, parameter)
        for site in adapted.planned
        for factor, parameter in (("a", site.a), ("b", site.b))
    ]


def _whole_outputs(model: ModelUnderTest, outputs: Outputs) -> Outputs:
    """Return the logits of the whole batch over the whole vocabulary, joined over tensor- and
    data-parallel ranks.
    """
    from megatron.core import parallel_state as mpu

    place = mpu.get_data_parallel_rank(), mpu.get_tensor_model_parallel_rank()
    # Stages without output layer have no outputs. Expert-parallel ranks are data-parallel ranks, so
    # these two numbers are the place of a rank's logits.
    by_place = {place: outs for place, outs in model.everywhere((place, outputs)) if outs}
    tp_ranks = {dp: sorted(tp for other, tp in by_place if other == dp) for dp, _ in by_place}
    rows = [
        [torch.cat(pieces, -1) for pieces in zip(*(by_place[dp, tp] for tp in tp_ranks[dp]), strict=True)]
        for dp in sorted(tp_ranks)
    ]
    return [joined_rows(pieces, model.batch().states_length) for pieces in zip(*rows, strict=True)]


def _data_parallel(chunks: list[nn.Module]) -> list[Any]:
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    with quiet():
        # Sum gradients in the parameters' dtype: the bounds are of that dtype.
        config = DistributedDataParallelConfig(grad_reduce_in_fp32=False)
        wrapped = [DistributedDataParallel(chunk.config, config, chunk) for chunk in chunks]
    for chunk in wrapped:
        chunk.zero_grad_buffer()
    return wrapped


def _ratio(found: torch.Tensor, expected: torch.Tensor) -> str:
    """Return an addition to the message if one is a multiple of the other, because the multiple
    tells which sum is wrong.
    """
    # A sum that is missing or made twice gives a multiple by the size of an axis, such as 2 or 1/4.
    ratio = float((found * expected).sum() / (expected * expected).sum())
    nearest = round(ratio * 8) / 8
    if nearest > 0 and nearest != 1 and relative_error([found], [nearest * expected]) < 1e-2:
        return f" ({nearest:g} times it)"
    return ""


def _where(text: str) -> str:
    """Return the path in the name of a factor, or in a sentence that has one."""
    name = next((word for word in text.split() if word.endswith((".a", ".b"))), text)
    return name.removesuffix(".a").removesuffix(".b")
