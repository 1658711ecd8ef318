"""`Conversion`: what a family's converter returns."""

from __future__ import annotations

from typing import Any

import msgspec

from clora.families.base.layer_form import LayerForm


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """A Hugging Face config in megatron-core's fields. All values are JSON: activations and dtypes
    are given by name.
    """

    config: dict[str, Any]
    """Fields of `TransformerConfig`, or of `MLATransformerConfig` if `multi_latent_attention` is
    true.
    """
    model: dict[str, Any]
    """Arguments of the model class, and the few attributes that it reads off its config although
    the config does not declare them.
    """
    layers: LayerForm = LayerForm()
    """In what the decoder's layers differ from those that megatron-core builds."""
    notes: tuple[str, ...] = ()
    """Full sentences on what the built model lacks or has in another form."""
    pipeline_splits: dict[int, tuple[int, ...]] = {}
    """Uneven splits in common use: number of virtual stages (pp x vpp) -> layers of each, in
    order.
    """
