"""What every family's converter returns."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Family = Literal["gpt", "gemma2", "mamba", "callable"]
"""Which megatron-core model is built: `GPTModel`, the same with Gemma 2's layers, `MambaModel`, or
whatever a user's code returns.
"""


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """A Hugging Face config in megatron-core's words. Values are JSON; activations and dtypes go by
    name.
    """

    family: Family = "gpt"
    config: dict[str, Any]
    """Fields of `TransformerConfig`, or of `MLATransformerConfig` when `multi_latent_attention` is
    true.
    """
    model: dict[str, Any]
    """Arguments of the model class, and the few attributes that it reads off its config without
    declaring them.
    """
    notes: tuple[str, ...] = ()
    """What the built model does not have, or has in another form, in full sentences."""
    pipeline_splits: dict[int, tuple[int, ...]] = {}
    """Usual uneven splits: number of stages (pp x vpp) -> layers of each, in layer order."""
