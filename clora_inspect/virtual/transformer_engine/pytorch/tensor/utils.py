"""Conversions of quantized tensors. Inert: there are none to convert."""

from __future__ import annotations

from typing import NoReturn

from ...missing import needs_gpu, refusing


def replace_raw_data(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.tensor.utils.replace_raw_data")


def cast_master_weights_to_fp8(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.tensor.utils.cast_master_weights_to_fp8")


def post_all_gather_processing(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.tensor.utils.post_all_gather_processing")


__getattr__ = refusing(__name__)
