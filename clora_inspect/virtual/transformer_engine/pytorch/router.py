"""Fused router functions. Inert: `moe_router_fusion` computes on a GPU."""

from __future__ import annotations

from typing import NoReturn

from ..missing import needs_gpu, refusing


def fused_topk_with_score_function(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.router.fused_topk_with_score_function")


def fused_compute_score_for_moe_aux_loss(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.router.fused_compute_score_for_moe_aux_loss")


def fused_moe_aux_loss(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.router.fused_moe_aux_loss")


__getattr__ = refusing(__name__)
