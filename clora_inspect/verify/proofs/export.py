"""Prove that adapters are bit-identical after an export as a Hugging Face folder and an import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clora.errors import HFAdapterError
from clora_inspect.job.module_path import global_path
from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.adapter_values import shared_folder, spoil, whole_factors

if TYPE_CHECKING:
    from clora_inspect.sources.definition import ModelDefinition
    from clora_inspect.verify.model.model_under_test import ModelUnderTest

HF_FIELDS = {
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_query_groups",
    "head_dim": "kv_channels",
    "hidden_size": "hidden_size",
    "vocab_size": "vocab_size",
    "num_hidden_layers": "num_layers",
}
"""Field of Hugging Face's config.json that an export reads -> megatron-core's field."""


def prove(model: ModelUnderTest) -> Proved:
    """Export on this layout, import into a second model, and compare."""
    from clora.hf import export_hf, import_hf

    config = _hf_config(model.definition)
    adapted = model.adapted()
    whole = whole_factors(model, adapted)
    with shared_folder(model) as folder:
        try:
            with quiet():
                report = export_hf(adapted.chunks, folder / "hf", config, base_model="base")
        # The format cannot hold every adapter (routers, for example), and surgery is not to blame.
        except HFAdapterError as error:
            raise NotRun(f"not exported: {error}") from error
        imported = model.adapted()
        spoil(imported)
        try:
            with quiet():
                import_hf(imported.chunks, folder / "hf", config)
        except HFAdapterError as error:
            raise Refuted(f"What was exported cannot be imported again: {error}") from error
    left_out = {global_path(entry.module, entry.global_layer) for entry in report.left_out}
    compared = {name: matrix for name, matrix in whole.items() if name[:-2].partition("[")[0] not in left_out}
    if not compared:
        raise NotRun("the export leaves out every adapter of this job")
    found = whole_factors(model, imported)
    for name, matrix in compared.items():
        if not torch.equal(found[name], matrix):
            raise Refuted("Exported and imported again it is another matrix.", where=name[:-2])
    return Proved(
        detail=f"exported as {report.linears} pairs and imported, the same bits"
        + (f"; {len(left_out)} left out" if left_out else ""),
        tensors=len(compared),
        elements=sum(matrix.numel() for matrix in whole.values()),
        largest_error=0.0,
    )


def _hf_config(definition: ModelDefinition) -> dict[str, Any]:
    """Return the small model's config.json, as far as an export reads it."""
    fields = {**definition.config, **definition.model}
    theirs = {name: fields[ours] for name, ours in HF_FIELDS.items() if ours in fields}
    # Multi-latent attention has head sizes of its own, and no field head_dim.
    if fields.get("multi_latent_attention"):
        theirs.pop("head_dim", None)
    return {"model_type": definition.model_type, **theirs}
