"""Stand-in for `transformer_engine.common`: the quantization recipes."""

from __future__ import annotations

from ..missing import refuse_unknown_names
from . import recipe

__all__ = ["recipe"]
__getattr__ = refuse_unknown_names(__name__)
