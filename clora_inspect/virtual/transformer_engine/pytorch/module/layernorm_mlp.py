"""Stand-in for `transformer_engine.pytorch.module.layernorm_mlp`: a type for `isinstance`.

megatron-core never builds a `LayerNormMLP`.
"""

from __future__ import annotations

from ...missing import needs_gpu, refuse_unknown_names
from .base import TransformerEngineBaseModule


class LayerNormMLP(TransformerEngineBaseModule):
    def __init__(self, *_args: object, **_options: object) -> None:
        needs_gpu("transformer_engine.pytorch.LayerNormMLP")


__getattr__ = refuse_unknown_names(__name__)
