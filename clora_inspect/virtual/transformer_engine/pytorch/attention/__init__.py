"""Attention."""

from __future__ import annotations

from ...missing import refusing
from .dot_product_attention import DotProductAttention

__all__ = ["DotProductAttention"]
__getattr__ = refusing(__name__)
