"""Stand-in for `transformer_engine.pytorch`, from which megatron-core takes most classes."""

from __future__ import annotations

from ..missing import refuse_unknown_names
from . import (
    attention,
    constants,
    cpu_offload,
    cpu_offload_v1,
    distributed,
    fp8,
    module,
    ops,
    optimizers,
    quantization,
    tensor,
)
from .attention import DotProductAttention
from .cpu_offload import get_cpu_offload_context
from .cross_entropy import parallel_cross_entropy
from .distributed import CudaRNGStatesTracker, checkpoint
from .graph import make_graphed_callables
from .module import *  # noqa: F403 - whatever module/__init__.py lists in __all__
from .permutation import (
    moe_permute,
    moe_permute_and_pad_with_probs,
    moe_permute_with_probs,
    moe_sort_chunks_by_index,
    moe_sort_chunks_by_index_with_probs,
    moe_unpermute,
)
from .quantization import autocast, fp8_autocast, fp8_model_init, quantized_model_init
from .tensor import QuantizedTensor

__all__ = [
    "CudaRNGStatesTracker",
    "DotProductAttention",
    "QuantizedTensor",
    "attention",
    "autocast",
    "checkpoint",
    "constants",
    "cpu_offload",
    "cpu_offload_v1",
    "distributed",
    "fp8",
    "fp8_autocast",
    "fp8_model_init",
    "get_cpu_offload_context",
    "make_graphed_callables",
    "module",
    "moe_permute",
    "moe_permute_and_pad_with_probs",
    "moe_permute_with_probs",
    "moe_sort_chunks_by_index",
    "moe_sort_chunks_by_index_with_probs",
    "moe_unpermute",
    "ops",
    "optimizers",
    "parallel_cross_entropy",
    "quantization",
    "quantized_model_init",
    "tensor",
]
__all__ += module.__all__
__getattr__ = refuse_unknown_names(__name__)
