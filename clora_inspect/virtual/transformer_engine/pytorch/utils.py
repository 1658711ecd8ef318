"""Small things that megatron-core takes from here."""

from __future__ import annotations

from typing import Any

from ..missing import refusing


def make_weak_ref(x: Any) -> Any:
    """The same, because only CUDA memory can be referred to weakly; containers are copied."""
    if isinstance(x, (tuple, list)):
        return type(x)(make_weak_ref(item) for item in x)
    if isinstance(x, dict):
        return {key: make_weak_ref(value) for key, value in x.items()}
    return x


def get_device_compute_capability() -> tuple[int, int]:
    """Major and minor: that of an H100, which is what a plan assumes where it matters."""
    return 9, 0


def get_cudnn_version() -> tuple[int, int, int]:
    """No cuDNN."""
    return 0, 0, 0


__getattr__ = refusing(__name__)
