"""Stand-in for `transformer_engine.pytorch.utils`: what `transformer/cuda_graphs.py` of
megatron-core imports.
"""

from __future__ import annotations

from typing import Any

from ..missing import refuse_unknown_names


def make_weak_ref(x: Any) -> Any:
    """Return `x` with containers copied. The real function makes tensors that share the memory of
    those in `x` without owning it, which is a matter of CUDA graphs.
    """
    if isinstance(x, (tuple, list)):
        return type(x)(make_weak_ref(item) for item in x)
    if isinstance(x, dict):
        return {key: make_weak_ref(value) for key, value in x.items()}
    return x


def get_device_compute_capability() -> tuple[int, int]:
    """Return (major, minor) of an H100, as `torch.cuda.get_device_capability` does in `cuda.py`."""
    return 9, 0


def get_cudnn_version() -> tuple[int, int, int]:
    """Return 0.0.0: there is no cuDNN."""
    return 0, 0, 0


__getattr__ = refuse_unknown_names(__name__)
