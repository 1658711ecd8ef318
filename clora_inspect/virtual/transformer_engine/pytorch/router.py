"""Stand-in for `transformer_engine.pytorch.router`: functions behind `moe_router_fusion`."""

from __future__ import annotations

from ..missing import gpu_only, refuse_unknown_names

fused_topk_with_score_function = gpu_only("transformer_engine.pytorch.router.fused_topk_with_score_function")
fused_compute_score_for_moe_aux_loss = gpu_only(
    "transformer_engine.pytorch.router.fused_compute_score_for_moe_aux_loss"
)
fused_moe_aux_loss = gpu_only("transformer_engine.pytorch.router.fused_moe_aux_loss")

__getattr__ = refuse_unknown_names(__name__)
