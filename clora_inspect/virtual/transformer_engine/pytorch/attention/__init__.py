"""Stand-in for `transformer_engine.pytorch.attention`."""

from __future__ import annotations

from ...missing import refuse_unknown_names
from .dot_product_attention import DotProductAttention

__all__ = ["DotProductAttention"]
__getattr__ = refuse_unknown_names(__name__)
