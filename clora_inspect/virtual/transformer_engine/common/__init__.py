"""What is independent of the framework: the quantization recipes."""

from __future__ import annotations

from ..missing import refusing
from . import recipe

__all__ = ["recipe"]
__getattr__ = refusing(__name__)
