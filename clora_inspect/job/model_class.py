"""`ModelClass`: the classes of megatron-core that an architecture can be built as. Pure."""

from __future__ import annotations

from typing import Literal

ModelClass = Literal["gpt", "hybrid"]
"""GPTModel, or HybridModel, in which attention and MLP are layers of their own."""
