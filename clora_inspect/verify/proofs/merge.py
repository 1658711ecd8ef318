"""Prove that the adapted model and merged weights are the same function: compare the forward with
random A and B with the forward of weights that have `alpha / dim B A` added.

The weights are made here, by LoRA's definition and megatron-core's packing, and not by the
implementation: a delta in the wrong rows, with the wrong scale or of the wrong factor shows as a
difference. The implementation's own merging is then compared with the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from clora_inspect.verify.model.merging import Factors, factors_of, merge_factors
from clora_inspect.verify.model.running import ModuleOutputs, Outputs, module_outputs, outputs_of
from clora_inspect.verify.model.sites import base_name, is_adapter, parameters_of, weights_of
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.compare import relative_error, size_of
from clora_inspect.verify.proofs.rounding import check_not_rounding
from clora_inspect.verify.proofs.routing import Choices

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.batch import Batch
    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest


class _AdaptedRun(NamedTuple):
    factors: list[Factors]
    outputs: Outputs
    inside: ModuleOutputs
    """Outputs of the adapted linears."""
    adapted: AdaptedModel | None
    """The model, for the implementation's own merging; None where memory has room for one model, or
    the implementation cannot merge.
    """


def prove(model: ModelUnderTest) -> Proved:
    """Compare the adapted model with merged weights; then what the implementation merges itself,
    and takes out again.
    """
    batch = model.batch()
    choices = Choices(model.dtype)
    run = _run_adapted(model, batch, choices)
    merged = model.base()
    merge_factors(merged, run.factors)
    with module_outputs(merged, list(run.inside)) as inside_merged, choices.repeated(merged):
        expected = outputs_of(merged, batch)
    error, bound = relative_error(run.outputs, expected), model.bound
    if any(model.everywhere(error > bound)):
        largest = max(model.everywhere(error))
        check_not_rounding(model, largest, bound, routers_repeat=True)
        raise Refuted(
            f"With random A and B the adapted model is not the model with merged weights: {largest:.1e} of the "
            f"largest output apart, and rounding explains {bound:.0e}. What is trained is not what is merged, exported "
            "or served.",
            where=_first_difference(run.inside, inside_merged, bound),
            largest_error=error,
            bound=bound,
        )
    if run.adapted is not None:
        _check_own_merge(model, run.adapted, merged)
    tensors, elements = size_of(run.outputs)
    return Proved(
        detail="forward with random A and B is the forward of merged weights"
        + ("; merging and unmerging give those weights, and the base's bits back" if run.adapted is not None else "")
        + choices.note,
        tensors=tensors,
        elements=elements,
        largest_error=error,
        bound=bound,
    )


def _run_adapted(model: ModelUnderTest, batch: Batch, choices: Choices) -> _AdaptedRun:
    adapted = model.adapted()
    _switch_off_borrowed(adapted)
    if not any(model.everywhere(any(bool(site.b.detach().ne(0).any()) for site in adapted.planned))):
        raise NotRun("the only adapted linear borrows the embedding's weight, and has none of its own to merge into")
    # At true width, memory has no room for the outputs beside the layer.
    paths = [] if model.one_layer else [(site.chunk, site.module) for site in adapted.planned]
    with module_outputs(adapted.chunks, paths) as inside, choices.kept(adapted.chunks):
        outputs = model.together(lambda: outputs_of(adapted.chunks, batch))
    keeps = model.implementation.merges and not model.one_layer
    return _AdaptedRun(factors_of(adapted.planned), outputs, inside, adapted if keeps else None)


@torch.no_grad()
def _switch_off_borrowed(adapted: AdaptedModel) -> None:
    """Zero the B of an output layer that borrows the embedding's weight: it has no weight of its
    own to merge into.
    """
    for site in adapted.planned:
        if not weights_of(adapted.chunks[site.chunk], site.module):
            site.b.zero_()


def _first_difference(adapted: ModuleOutputs, merged: ModuleOutputs, bound: float) -> str | None:
    """Return the path of the first adapted linear whose outputs differ."""
    # Both are in the order in which modules ended: the first is the cause, later ones follow.
    for key, tensor in adapted.items():
        other = merged.get(key)
        if other is not None and tensor.numel() and relative_error([tensor], [other]) > bound:
            return key[1]
    return None


def _check_own_merge(model: ModelUnderTest, adapted: AdaptedModel, expected: list[nn.Module]) -> None:
    """Compare the implementation's merged weights with `expected`, and its unmerged ones with those
    from before.
    """
    # Merging into a weight that is borrowed from the embedding is refused.
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
