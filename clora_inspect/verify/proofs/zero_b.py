"""Prove that B = 0 changes nothing: the adapted model's output is the base's, bit by bit, in
evaluation and in training.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.running import module_outputs, outputs_of
from clora_inspect.verify.model.together import EndedElsewhere
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.compare import departure, size_of

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.batch import Batch
    from clora_inspect.verify.model.model_under_test import ModelUnderTest
    from clora_inspect.verify.model.sites import Site

ODD_LENGTH = 7
"""A number of tokens that no tp divides, as in generation and evaluation."""


def prove(model: ModelUnderTest) -> Proved:
    """Compare outputs before and after surgery, with B as surgery leaves it."""
    if model.lora.lora_B_init_method != "zero":
        raise NotRun(
            f"lora_B_init_method = {model.lora.lora_B_init_method!r}: the model is meant to start from another output "
            "than the base's"
        )
    runs = _runs(model)
    chunks = model.base()
    base = [outputs_of(chunks, batch, training=training) for batch, training in runs]
    # A is random and B as surgery leaves it: their product is zero only if B is.
    adapted = model.adapt(chunks, random_b=False)
    tensors = elements = 0
    for (batch, training), expected in zip(runs, base, strict=True):
        output = model.together(partial(outputs_of, adapted.chunks, batch, training=training))
        difference = departure(output, expected)
        if any(model.everywhere(difference is not None)):
            # Called on all ranks, also on those whose own outputs are equal: it runs collectives.
            where = _first_departure(model, adapted.chunks, batch, training=training)
            if difference is None:
                raise EndedElsewhere
            raise Refuted(
                f"With B = 0 the adapted model must give the base's output, and in "
                f"{'training' if training else 'evaluation'} mode {difference}. Training would start from another "
                f"model than the base.{_nonzero(adapted.sites)}",
                where=where,
            )
        more_tensors, more_elements = size_of(output)
        tensors, elements = tensors + more_tensors, elements + more_elements
    return Proved(
        detail="bit-identical to the base" + ("" if model.one_layer else ", in evaluation and training"),
        tensors=tensors,
        elements=elements,
        largest_error=0.0,
    )


def _runs(model: ModelUnderTest) -> list[tuple[Batch, bool]]:
    """Return the inputs to compare, each with whether the model is in training mode."""
    if model.one_layer:
        return [(model.batch(), False)]
    batches = [model.batch()]
    # Sequence parallelism cuts a row into tp equal parts, and a pipeline cuts the batch.
    if not model.layout.sequence_parallel and model.layout.pp == 1:
        batches.append(model.batch(ODD_LENGTH, rows=1))
    return [(batch, training) for batch in batches for training in (False, True)]


def _nonzero(sites: list[Site]) -> str:
    """Return a sentence with the adapters whose B is not zero; empty where there is none."""
    nonzero = [site.at for site in sites if bool(site.b.detach().ne(0).any())]
    if not nonzero:
        return ""
    return f" B is not zero at {nonzero[0]}" + (f" and {len(nonzero) - 1} more." if len(nonzero) > 1 else ".")


def _first_departure(model: ModelUnderTest, chunks: list[nn.Module], batch: Batch, *, training: bool) -> str | None:
    """Return the path of the first module, in the order of the forward, whose output is not the
    base's; the innermost where several end there.
    """
    fresh = model.base()
    paths = [
        (number, path)
        for number, chunk in enumerate(fresh)
        for path, _ in chunk.named_modules()
        if path and _has(chunks[number], path)
    ]
    with module_outputs(fresh, paths) as expected:
        outputs_of(fresh, batch, training=training)
    with module_outputs(chunks, paths) as found:
        outputs_of(chunks, batch, training=training)
    # `found` is in the order in which modules ended, so an inner one comes before its parent.
    for key, tensor in found.items():
        other = expected.get(key)
        if other is not None and (other.shape != tensor.shape or not torch.equal(other, tensor)):
            return key[1]
    return None


def _has(chunk: nn.Module, path: str) -> bool:
    try:
        chunk.get_submodule(path)
    except AttributeError:
        return False
    return True
