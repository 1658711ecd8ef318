"""Families that are known, and that megatron-core 0.16 has no layers for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora.families.base.family import Family

FAMILIES: tuple[Family, ...] = ()

UNBUILDABLE = {
    "falcon_h1": "every layer runs Mamba and attention side by side, which no layer of megatron-core does.",
    "deepseek_v32": "sparse attention chooses its keys by an indexer, whose parameters megatron-core's own indexer "
    "does not share; as deepseek_v3 the rest of the model can be planned.",
    "mllama": "the text model attends to the image in layers of its own, which megatron-core's GPT does not have.",
    "jamba": "its Mamba layers are of the first kind, and megatron-core's are Mamba 2.",
    "cohere": "attention and MLP read the same norm side by side, which no layer of megatron-core does.",
    "cohere2": "attention and MLP read the same norm side by side, which no layer of megatron-core does.",
    "gpt2": "positions are learned, and the linears are Conv1D, which no adapter here is exported to.",
}
"""`model_type` -> why it cannot be built, as a sentence."""
