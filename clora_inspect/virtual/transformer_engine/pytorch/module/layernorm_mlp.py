"""`LayerNormMLP` has its name only: megatron-core asks whether a module is one, and never builds
one.
"""

from __future__ import annotations

from ...missing import needs_gpu, refusing
from .base import TransformerEngineBaseModule


class LayerNormMLP(TransformerEngineBaseModule):
    """Inert."""

    def __init__(self, *_args: object, **_options: object) -> None:
        needs_gpu("transformer_engine.pytorch.LayerNormMLP")


__getattr__ = refusing(__name__)
