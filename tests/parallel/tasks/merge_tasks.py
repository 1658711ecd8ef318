"""The tasks that the tests of merging run on each rank."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hf_tiny
import lora_models
import torch

from clora import CanonicalLoRA, MergeError, merge_adapters, unmerge_adapters
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet


def merged(kind: str, axes: dict[str, Any], share: bool) -> dict[str, Any]:
    """Merge and unmerge a model.

    Return the shards of its merged base weights, how far its output moved by merging, and which
    weights unmerging did not restore.
    """
    layout = Layout(**axes)
    chunks = (
        _gemma2(layout) if kind == "gemma2" else lora_models.build(kind, layout, num_layers=4 if layout.pp > 1 else 2)
    )
    targets = [target for target in lora_models.TARGETS if layout.pp == 1 or target != "router"]
    with quiet():
        CanonicalLoRA(target_modules=targets, dim=4, alpha=6, share_expert_adapters=share)(chunks)
    for chunk in chunks:
        lora_models.fill(chunk.eval(), only=".adapter.", std=0.2)
    before, base = _out(chunks, layout), _base(chunks)
    with quiet():
        merge_adapters(chunks)
    after, weights = _out(chunks, layout), _base(chunks)
    shards = []
    for number, chunk in enumerate(chunks):
        for name, parameter in chunk.named_parameters():
            if ".adapter." not in name:
                place = lora_models.Place(chunk, name, parameter)
                shards.append((place.name, place.shape, place.positions, weights[f"{number}:{name}"]))
    unmerge_adapters(chunks)
    return {
        "shards": shards,
        "moved": 0.0 if before is None or after is None else float((before - after).abs().max()),
        "changed": sum(not torch.equal(base[name], weights[name]) for name in base),
        "unrestored": [name for name, weight in _base(chunks).items() if not torch.equal(weight, base[name])],
    }


def merged_pipeline(targets: list[str], tied: bool, kind: str = "gqa") -> dict[str, Any]:
    """Try to merge a pipeline of two stages, and return the message and the number of changed
    weights.
    """
    chunks = lora_models.build(kind, Layout(pp=2), num_layers=4)
    with quiet():
        CanonicalLoRA(target_modules=targets, dim=4, alpha=6)(chunks)
    for chunk in chunks:
        lora_models.fill(chunk, only=".adapter.", std=0.2)
        for name, parameter in chunk.named_parameters():
            if tied and name == "output_layer.weight":
                parameter.shared_embedding = True  # megatron-core's mark of a tied copy
    before = _base(chunks)
    message = ""
    try:
        with quiet():
            merge_adapters(chunks)
    except MergeError as error:
        message = str(error)
    return {
        "message": message,
        "changed": sum(not torch.equal(weight, before[name]) for name, weight in _base(chunks).items()),
    }


def _gemma2(layout: Layout) -> list[Any]:
    """Return a model whose output projections have a norm behind them."""
    _, fields = hf_tiny.MODELS["gemma2"]
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(
            json.dumps({"model_type": "gemma2", **fields, "tie_word_embeddings": False})
        )
        chunks = hf_tiny.megatron(Path(folder), layout, params_dtype="float64")
    for chunk in chunks:
        lora_models.fill(chunk)
    return chunks


def _base(chunks: list[Any]) -> dict[str, torch.Tensor]:
    return {
        f"{number}:{name}": parameter.detach().clone()
        for number, chunk in enumerate(chunks)
        for name, parameter in chunk.named_parameters()
        if ".adapter." not in name
    }


def _out(chunks: list[Any], layout: Layout) -> torch.Tensor | None:
    """Return this rank's logits; None on a pipeline, where a forward needs all stages."""
    if layout.pp > 1:
        return None
    tokens, positions, _ = lora_models.batch(8)
    with torch.no_grad(), quiet():
        logits: torch.Tensor = chunks[0](tokens, positions, None)
    return logits
