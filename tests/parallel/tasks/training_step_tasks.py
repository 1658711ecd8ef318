"""Run one training step of megatron-core's own model, without adapters, and say what it raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import described
from clora_inspect.job.layout import Layout
from clora_inspect.sources.definition import ModelDefinition

if TYPE_CHECKING:
    from clora_inspect.verify.model.batch import Batch


def training_step(definition: bytes, layout: bytes, frozen: bool) -> str:
    """Return what the forward or the backward raises on this rank; nothing if they run.

    Args:
        definition: a `ModelDefinition` in JSON.
        layout: a `Layout` in JSON.
        frozen: whether the weights are frozen, all but the embedding's.
    """
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.verify.model.batch import token_batch
    from clora_inspect.verify.model.running import ForwardFailed, backward

    model = msgspec.json.decode(definition, type=ModelDefinition)
    mesh = msgspec.json.decode(layout, type=Layout)
    chunks: list[Any] = build_chunks(model, mesh)
    for chunk in chunks if frozen else ():
        for name, parameter in chunk.named_parameters():
            parameter.requires_grad_("embedding" in name)
    batch = token_batch(16, model.model.get("vocab_size", 64), seed=1, rows=4)
    try:
        if mesh.pp > 1:
            backward(chunks, batch)
        else:
            _step_on_labels(chunks[0], batch)
    except ForwardFailed as failed:
        return str(failed)
    except Exception as error:  # noqa: BLE001 - whatever upstream raises is the result
        return described(error)
    return ""


def forwards_of_layer_0(definition: bytes, layout: bytes) -> int:
    """Return how often the first layer runs forward in a training step."""
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.verify.model.batch import token_batch

    [chunk] = build_chunks(
        msgspec.json.decode(definition, type=ModelDefinition), msgspec.json.decode(layout, type=Layout)
    )
    model: Any = chunk
    calls = []
    model.decoder.layers[0].register_forward_hook(lambda *_: calls.append(None))
    _step_on_labels(model, token_batch(16, 64, seed=1, rows=4))
    return len(calls)


def _step_on_labels(chunk: Any, batch: Batch) -> None:
    """Train as Megatron-LM does: the model itself computes the loss."""
    import torch

    tokens = batch.tokens
    assert tokens is not None
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    chunk.train()
    chunk(tokens, positions, None, labels=tokens.roll(-1, 1)).mean().backward()
