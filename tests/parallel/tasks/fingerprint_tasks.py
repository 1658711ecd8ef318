"""The tasks that the tests of fingerprints run on each rank."""

from __future__ import annotations

from typing import Any

import hf_tasks
import torch

from clora import CheckpointError, export_hf, import_hf, load_adapters, save_adapters
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet


def write(kind: str, axes: dict[str, Any], folder: str, options: dict[str, Any], bridge: str) -> None:
    """Write the filled adapters in every form, and once more after they were imported."""
    chunks = hf_tasks._adapted(kind, Layout(**axes), options)
    config = hf_tasks._config(options)
    with quiet():
        save_adapters(chunks, f"{folder}/clora")
        save_adapters(chunks, f"{folder}/bridge", bridge=bridge)
        export_hf(chunks, f"{folder}/peft", config)
        _zero(chunks)
        import_hf(chunks, f"{folder}/peft", config)
        export_hf(chunks, f"{folder}/again", config)


def load(kind: str, axes: dict[str, Any], folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """Load into a model whose adapters are zero; return the refusal, and how many stay zero."""
    chunks = hf_tasks._adapted(kind, Layout(**axes), options)
    _zero(chunks)
    message = ""
    try:
        with quiet():
            load_adapters(chunks, folder)
    except CheckpointError as error:
        message = str(error)
    values = [p for chunk in chunks for name, p in chunk.named_parameters() if ".adapter." in name]
    return {"message": message, "zero": sum(not value.any() for value in values), "factors": len(values)}


def _zero(chunks: list[Any]) -> None:
    with torch.no_grad():
        for chunk in chunks:
            for name, parameter in chunk.named_parameters():
                if ".adapter." in name:
                    parameter.zero_()
