"""The job's layout is one rank: the same adapters, split as the job splits them, give the same
outputs and the same whole gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.model.running import Outputs, backward
from clora_inspect.verify.model.shards import Part, assembled, part_of
from clora_inspect.verify.model.single_rank import alone
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.compare import relative_error
from clora_inspect.verify.proofs.expected_gradients import check_gradients, gradient_of
from clora_inspect.verify.proofs.rounding import explained_by_rounding

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest

Step = tuple[Outputs, dict[str, torch.Tensor]]
"""Outputs of the whole batch, and the gradients of whole factors by name."""


def prove(model: ModelUnderTest) -> Proved:
    """One training step's outputs and reduced gradients through megatron-core's data-parallel
    wrapper, on the layout and on one rank.
    """
    if model.ranks == 1:
        raise NotRun("one rank has no layout to compare; --procs N runs the job's layout on N local processes")
    if not model.is_megatron:
        raise NotRun("megatron-core's data-parallel wrapper, which sums gradients, takes its own modules only")
    outputs, gradients = _step(model)
    _initial_values(model)
    with alone():
        serial_outputs, serial_gradients = _step(model.alone())
    error = relative_error(outputs, serial_outputs) if outputs else 0.0
    bound = model.bound
    if error > bound:
        explained_by_rounding(model, error, bound)
        raise Refuted(
            f"On {model.layout.label} the adapted model's outputs are not those of one rank: {error:.1e} of the "
            f"largest apart, and rounding explains {bound:.0e}.",
            largest_error=error,
            bound=bound,
        )
    worst = error
    for name, gradient in serial_gradients.items():
        if name not in gradients:
            raise Refuted("On the layout this factor is nowhere.", where=_where(name))
        apart = relative_error([gradients[name]], [gradient])
        if apart > 10 * bound:
            explained_by_rounding(model, apart, 10 * bound)
            raise Refuted(
                f"On {model.layout.label} the gradient of {name[-1].upper()} is not that of one rank: {apart:.1e} of its largest entry apart"
                f"{_ratio(gradients[name], gradient)}. A sum over ranks is missing or made twice.",
                where=_where(name),
                largest_error=apart,
                bound=10 * bound,
            )
        worst = max(worst, apart)
    return Proved(
        detail=f"outputs and whole gradients on {model.layout.label} are those of one rank; copies of a factor agree",
        tensors=len(serial_gradients) + len(serial_outputs),
        elements=sum(gradient.numel() for gradient in serial_gradients.values()),
        largest_error=worst,
        bound=10 * bound,
    )


def _step(model: ModelUnderTest) -> Step:
    adapted = model.adapted()
    wrapped = _data_parallel(adapted.chunks)
    outputs = model.together(lambda: backward(wrapped, model.batch()))
    from megatron.core.distributed import finalize_model_grads

    finalize_model_grads(wrapped)
    model.together(lambda: check_gradients(adapted))
    parts = [part for parts in model.everywhere(_parts(adapted)) for part in parts]
    gradients, wrong = assembled(parts, bound=10 * model.bound)
    if wrong:
        raise Refuted(f"Gradients: {wrong}. Replicated factors would drift apart during training.", where=_where(wrong))
    return _whole_outputs(model, outputs), gradients


def _parts(adapted: AdaptedModel) -> list[Part]:
    return [
        part_of(site, factor, gradient)
        for site in adapted.planned
        for factor, parameter in (("a", site.a), ("b", site.b))
        if (gradient := gradient_of(parameter)) is not None
    ]


def _initial_values(model: ModelUnderTest) -> None:
    """As surgery leaves them, copies of a factor agree bit by bit, and the parts of a split A are
    not each other's copies.
    """
    adapted = model.adapted(random_a=False)
    parts = [
        part_of(site, factor, parameter)
        for site in adapted.planned
        for factor, parameter in (("a", site.a), ("b", site.b))
    ]
    everywhere = model.everywhere(parts)
    _, wrong = assembled([part for parts in everywhere for part in parts], bound=0.0)
    if wrong:
        raise Refuted(
            f"First values: {wrong}. Ranks that should hold the same factor start from different ones.",
            where=_where(wrong),
        )
    drawn: dict[tuple[str, int], torch.Tensor] = {}
    for parts in everywhere:
        for name, _, where, values in parts:
            if not name.endswith(".a") or not values.numel():
                continue
            for (other, start), known in drawn.items():
                if (
                    other == name
                    and start != int(where[0])
                    and known.shape == values.shape
                    and torch.equal(known, values)
                ):
                    raise Refuted(
                        "Two ranks start from the same part of A, which they should hold different parts of.",
                        where=_where(name),
                    )
            drawn[name, int(where[0])] = values


def _whole_outputs(model: ModelUnderTest, outputs: Outputs) -> Outputs:
    """The logits of the whole batch with the whole vocabulary, joined over tensor- and
    data-parallel ranks; on every rank.
    """
    from megatron.core import parallel_state as mpu

    tp, dp = mpu.get_tensor_model_parallel_rank(), mpu.get_data_parallel_rank()
    said = [(dp, tp, output) for dp, tp, output in _flat(model.everywhere((dp, tp, outputs)))]
    if not said:
        return []
    columns = {
        of_dp: [outs for dp_, _, outs in sorted(said, key=lambda row: row[:2]) if dp_ == of_dp] for of_dp, _, _ in said
    }
    rows = [[torch.cat(pieces, -1) for pieces in zip(*columns[of_dp], strict=True)] for of_dp in sorted(columns)]
    return [torch.cat(pieces, 1) for pieces in zip(*rows, strict=True)]


def _flat(everywhere: list[tuple[int, int, Outputs]]) -> list[tuple[int, int, Outputs]]:
    """One entry for each place: pipeline stages without an end have none, and expert ranks are
    data-parallel ones.
    """
    seen: dict[tuple[int, int], Outputs] = {}
    for dp, tp, outputs in everywhere:
        if outputs:
            seen[dp, tp] = outputs
    return [(dp, tp, outputs) for (dp, tp), outputs in seen.items()]


def _data_parallel(chunks: list[nn.Module]) -> list[Any]:
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    with quiet():
        config = DistributedDataParallelConfig(grad_reduce_in_fp32=False)
        wrapped = [DistributedDataParallel(chunk.config, config, chunk) for chunk in chunks]
    for chunk in wrapped:
        chunk.zero_grad_buffer()
    return wrapped


def _ratio(found: torch.Tensor, expected: torch.Tensor) -> str:
    """Says when the one is a multiple of the other: that tells which sum it is."""
    ratio = float((found * expected).sum() / (expected * expected).sum())
    nearest = round(ratio * 8) / 8
    if nearest > 0 and nearest != 1 and relative_error([found], [nearest * expected]) < 1e-2:
        return f" ({nearest:g} times it)"
    return ""


def _where(name: str) -> str:
    for word in name.split():
        if word.endswith((".a", ".b")):
            return word[:-2]
    return name.removesuffix(".a").removesuffix(".b")
