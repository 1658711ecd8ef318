"""An exported Hugging Face folder, imported again, gives the same adapters bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clora.errors import HFAdapterError
from clora_inspect.job.module_path import global_path
from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.adapter_values import shared_folder, whole_factors

if TYPE_CHECKING:
    from clora_inspect.sources.definition import ModelDefinition
    from clora_inspect.verify.model.model_under_test import ModelUnderTest


def prove(model: ModelUnderTest) -> Proved:
    """Export on this layout and import into a second model."""
    if not model.implementation.exports:
        raise NotRun(f"{model.implementation.name} exports through its own bridges, which need the model's weights")
    if model.definition.model_type is None:
        raise NotRun("the model has no Hugging Face name to export under")
    from clora.hf import export_hf, import_hf

    config = _hf_config(model.definition)
    adapted = model.adapted()
    whole = whole_factors(model, adapted)
    with shared_folder(model) as folder:
        try:
            with quiet():
                report = export_hf(adapted.chunks, folder / "hf", config, base_model="base")
        except HFAdapterError as error:
            raise NotRun(f"not exported: {error}") from error
        other = model.adapted()
        with torch.no_grad():
            for site in other.planned:
                site.a.fill_(-1.0)
                site.b.fill_(-1.0)
        try:
            with quiet():
                import_hf(other.chunks, folder / "hf", config)
        except HFAdapterError as error:
            raise Refuted(f"What was exported cannot be imported again: {error}") from error
    left_out = {global_path(entry.module, entry.global_layer) for entry in report.left_out}
    found = whole_factors(model, other)
    compared = 0
    for name, matrix in whole.items():
        if name[:-2].partition("[")[0] in left_out:
            continue
        if not torch.equal(found[name], matrix):
            raise Refuted("Exported and imported again it is another matrix.", where=name[:-2])
        compared += 1
    return Proved(
        detail=f"exported as {report.linears} pairs and imported, the same bits"
        + (f"; {len(left_out)} left out" if left_out else ""),
        tensors=compared,
        elements=sum(matrix.numel() for matrix in whole.values()),
        largest_error=0.0,
    )


def _hf_config(definition: ModelDefinition) -> dict[str, Any]:
    """The config.json of the small model, as far as an export reads it."""
    fields = {**definition.config, **definition.model}
    named = {
        "num_attention_heads": "num_attention_heads",
        "num_key_value_heads": "num_query_groups",
        "head_dim": "kv_channels",
        "hidden_size": "hidden_size",
        "vocab_size": "vocab_size",
        "num_hidden_layers": "num_layers",
    }
    latent = bool(fields.get("multi_latent_attention"))
    return {"model_type": definition.model_type} | {
        theirs: fields[ours]
        for theirs, ours in named.items()
        if ours in fields and not (latent and theirs == "head_dim")
    }
