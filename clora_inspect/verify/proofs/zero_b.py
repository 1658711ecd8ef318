"""B = 0 changes nothing: the adapted model's output is the base's, bit by bit, in evaluation and in
training.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.running import module_outputs, outputs_of
from clora_inspect.verify.model.together import Elsewhere
from clora_inspect.verify.outcome import Proved, Refuted
from clora_inspect.verify.proofs.compare import departure, size_of

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.batch import Batch
    from clora_inspect.verify.model.model_under_test import ModelUnderTest

ODD = 7
"""A number of tokens that no tensor parallelism divides: what a generating model, or one that is
evaluated, meets.
"""


def prove(model: ModelUnderTest) -> Proved:
    """Compare outputs before and after surgery, with the adapters as surgery leaves them."""
    if model.lora.lora_B_init_method != "zero":
        return Proved(
            detail=f"lora_B_init_method = {model.lora.lora_B_init_method!r}: the model is meant to start from another output"
        )
    batches = [model.batch()]
    if model.ends and not model.layout.sequence_parallel and model.layout.pp == 1:
        batches.append(model.batch(ODD, rows=1))
    runs = [(batch, training) for batch in batches for training in ((False,) if model.streamed else (False, True))]
    chunks = model.base()
    base = [outputs_of(chunks, batch, training=training) for batch, training in runs]
    adapted = model.adapt(chunks, random_b=False)
    compared = [0, 0]
    for (batch, training), expected in zip(runs, base, strict=True):
        output = model.together(partial(outputs_of, adapted.chunks, batch, training=training))
        apart = departure(output, expected)
        if any(model.everywhere(apart is not None)):
            mode = "training" if training else "evaluation"
            where = _first_departure(model, adapted.chunks, batch, training=training)
            if apart is None:
                raise Elsewhere
            raise Refuted(
                f"With B = 0 the adapted model must give the base's output, and in {mode} mode {apart}. Training would start from another model "
                f"than the base.{_nonzero(adapted.sites)}",
                where=where,
            )
        tensors, elements = size_of(output)
        compared = [compared[0] + tensors, compared[1] + elements]
    return Proved(
        detail="bit-identical to the base" + ("" if model.streamed else ", in evaluation and training"),
        tensors=compared[0],
        elements=compared[1],
        largest_error=0.0,
    )


def _nonzero(sites: list) -> str:  # type: ignore[type-arg]
    nonzero = [site.at for site in sites if bool(site.b.detach().ne(0).any())]
    return (
        f" B is not zero at {nonzero[0]}" + (f" and {len(nonzero) - 1} more." if len(nonzero) > 1 else ".")
        if nonzero
        else ""
    )


def _first_departure(model: ModelUnderTest, chunks: list[nn.Module], batch: Batch, *, training: bool) -> str | None:
    """The first module, in the order of the forward, whose output is not that of the base; the
    innermost where several end there.
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
    # Hooks fire when a module ends, so an inner module comes before the one around it.
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
