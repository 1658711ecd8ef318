"""The tasks that the tests of adapter folders run on each rank."""

from __future__ import annotations

from typing import Any

import lora_models
import torch

from clora import CanonicalLoRA, HFAdapterError, export_hf, import_hf
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

TARGETS = [target for target in lora_models.TARGETS if target != "router"]


def export(kind: str, axes: dict[str, Any], folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """Write the folder of a filled model, and return the report."""
    chunks = _adapted(kind, Layout(**axes), options)
    with quiet():
        report = export_hf(chunks, folder, _config(options))
    return {"linears": report.linears, "left_out": [entry.module for entry in report.left_out]}


def filled_from(kind: str, axes: dict[str, Any], folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """Import the folder into a model whose adapters are zero.

    Return the adapters that differ from what the folder was filled with, and the message of an
    error.
    """
    chunks = _adapted(kind, Layout(**axes), options)
    parameters = {
        f"{number}:{name}": parameter
        for number, chunk in enumerate(chunks)
        for name, parameter in chunk.named_parameters()
        if ".adapter." in name
    }
    expected = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
    message = ""
    try:
        with quiet():
            import_hf(chunks, folder, _config(options))
    except HFAdapterError as error:
        message = str(error)
    return {
        "wrong": [name for name, parameter in parameters.items() if not torch.equal(parameter, expected[name])],
        "zero": sum(not parameter.any() for parameter in parameters.values()),
        "adapters": len(parameters),
        "message": message,
    }


def _adapted(kind: str, layout: Layout, options: dict[str, Any]) -> list[Any]:
    dtype = getattr(torch, options.get("dtype", "float32"))
    chunks = lora_models.build(kind, layout, dtype=dtype, num_layers=4, **options.get("fields", {}))
    lora = {"target_modules": options.get("targets", TARGETS), "dim": 4, "alpha": 6, **options.get("lora", {})}
    with quiet():
        CanonicalLoRA(**lora)(chunks)
    for chunk in chunks:
        lora_models.fill(chunk, only=".adapter.", std=0.2)
    return chunks


def _config(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": options["model_type"],
        "num_hidden_layers": 4,
        "hidden_size": lora_models.HIDDEN,
        "vocab_size": lora_models.VOCABULARY,
    }
