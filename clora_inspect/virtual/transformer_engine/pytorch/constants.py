"""Stand-in for `transformer_engine.pytorch.constants`: what megatron-core imports."""

from __future__ import annotations

from enum import Enum

from ..missing import refuse_unknown_names

MXFP8_BLOCK_SCALING_SIZE = 32
NVFP4_BLOCK_SCALING_SIZE = 16
"""Values that share a scale."""


class CPLoadBalancingStrategy(Enum):
    """How attention spreads a sequence over the ranks of cp."""

    DUAL_CHUNK_SWAP = "dual_chunk_swap"
    NO_LOAD_BALANCE = "no_load_balance"


__getattr__ = refuse_unknown_names(__name__)
