"""Stand-in for `transformer_engine.pytorch.tensor.utils`: conversions of quantized tensors."""

from __future__ import annotations

from ...missing import gpu_only, refuse_unknown_names

replace_raw_data = gpu_only("transformer_engine.pytorch.tensor.utils.replace_raw_data")
cast_master_weights_to_fp8 = gpu_only("transformer_engine.pytorch.tensor.utils.cast_master_weights_to_fp8")
quantize_master_weights = gpu_only("transformer_engine.pytorch.tensor.utils.quantize_master_weights")
post_all_gather_processing = gpu_only("transformer_engine.pytorch.tensor.utils.post_all_gather_processing")

__getattr__ = refuse_unknown_names(__name__)
