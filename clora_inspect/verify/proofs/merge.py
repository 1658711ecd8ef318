"""Adapter and merged weights are the same function: forward with random A and B against weights
with `alpha / dim B A` added.

The weights are made here, by LoRA's definition and megatron-core's packing, and not by the
implementation: a delta in the wrong rows, with the wrong scale or of the wrong factor shows as a
difference. The implementation's own merging is then held against the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.running import module_outputs, outputs_of
from clora_inspect.verify.model.sites import base_name, factors_of, fold, is_adapter, parameters_of, weights_of
from clora_inspect.verify.outcome import Proved, Refuted
from clora_inspect.verify.proofs.compare import relative_error, size_of
from clora_inspect.verify.proofs.rounding import explained_by_rounding
from clora_inspect.verify.proofs.routing import Choices

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.batch import Batch
    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest
    from clora_inspect.verify.model.running import Outputs
    from clora_inspect.verify.model.sites import Factors


def prove(model: ModelUnderTest) -> Proved:
    """Adapted model against merged weights; then what the implementation itself merges, and takes
    out again.
    """
    batch = model.batch()
    choices = Choices(model.dtype)
    factors, output, inside, own = _adapted_run(model, batch, choices)
    merged = model.base()
    fold(merged, factors)
    with module_outputs(merged, list(inside)) as inside_merged, choices.repeated(merged):
        expected = outputs_of(merged, batch)
    error, bound = relative_error(output, expected), model.bound
    if any(model.everywhere(error > bound)):
        explained_by_rounding(model, max(model.everywhere(error)), bound, routers_repeat=True)
        where = _first_difference(inside, inside_merged, bound)
        raise Refuted(
            "With random A and B the adapted model is not the model with merged weights: "
            f"{max(model.everywhere(error)):.1e} of the largest output apart, "
            f"and rounding explains {bound:.0e}. What is trained is not what is merged, exported or served.",
            where=where,
            largest_error=error,
            bound=bound,
        )
    if own is not None:
        _own_merge(model, own, merged)
    tensors, elements = size_of(output)
    return Proved(
        detail="forward with random A and B is the forward of merged weights"
        + ("; merging and unmerging give those weights, and the base's bits back" if own is not None else "")
        + choices.said,
        tensors=tensors,
        elements=elements,
        largest_error=error,
        bound=bound,
    )


def _adapted_run(
    model: ModelUnderTest, batch: Batch, choices: Choices
) -> tuple[list[Factors], Outputs, dict[tuple[int, str], torch.Tensor], AdaptedModel | None]:
    """Factors, outputs and the adapted linears' own outputs of an adapted model; and the model,
    unless memory is for one at a time.
    """
    adapted = model.adapted()
    _without_weights_of_their_own(adapted)
    paths = [] if model.streamed else [(site.chunk, site.module) for site in adapted.planned]
    with module_outputs(adapted.chunks, paths) as inside, choices.kept(adapted.chunks):
        output = model.together(lambda: outputs_of(adapted.chunks, batch))
    keeps = model.implementation.merges and not model.streamed
    return factors_of(adapted.planned), output, dict(inside), adapted if keeps else None


@torch.no_grad()
def _without_weights_of_their_own(adapted: AdaptedModel) -> None:
    """An output layer that borrows the embedding's weight has none to merge into: its adapter is
    switched off here.
    """
    for site in adapted.planned:
        if not weights_of(adapted.chunks[site.chunk], site.module):
            site.b.zero_()


def _first_difference(
    inside: dict[tuple[int, str], torch.Tensor], merged: dict[tuple[int, str], torch.Tensor], bound: float
) -> str | None:
    for key, tensor in inside.items():
        other = merged.get(key)
        if other is not None and tensor.numel() and relative_error([tensor], [other]) > bound:
            return key[1]
    return None


def _own_merge(model: ModelUnderTest, adapted: AdaptedModel, expected: list[nn.Module]) -> None:
    """The implementation's own merge against the weights that were made here, and its unmerge
    against the base.
    """
    if any(not weights_of(adapted.chunks[site.chunk], site.module) for site in adapted.planned):
        return
    before = {name: parameter.detach().clone() for name, parameter in _base_parameters(adapted.chunks)}
    model.implementation.merge(adapted.chunks)
    wanted = dict(_base_parameters(expected))
    for name, parameter in _base_parameters(adapted.chunks):
        if relative_error([parameter.detach()], [wanted[name].detach()]) > model.bound:
            raise Refuted(
                f"Merging gives {name} other values than base plus alpha / dim B A.", where=name.rpartition(".")[0]
            )
    model.implementation.unmerge(adapted.chunks)
    for name, parameter in _base_parameters(adapted.chunks):
        if not torch.equal(parameter.detach(), before[name]):
            raise Refuted(f"Unmerging does not give {name} its bits back.", where=name.rpartition(".")[0])


def _base_parameters(chunks: list[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    return [(base_name(name), parameter) for name, parameter in parameters_of(chunks) if not is_adapter(name)]
