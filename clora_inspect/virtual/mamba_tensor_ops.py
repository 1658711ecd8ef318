"""Stand-in for the Triton kernels with which megatron-core's Mamba mixer keeps its states while
generating. Inert.

The mixer imports them whether or not it will ever generate, and Triton exists for GPUs only.
"""

from __future__ import annotations

from typing import NoReturn


def tensor_get_slice_after(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    raise NotImplementedError("megatron-core's tensor_get_slice_after computes on a GPU only.")


def tensor_merge(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    raise NotImplementedError("megatron-core's tensor_merge computes on a GPU only.")


def tensor_masked_update(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    raise NotImplementedError("megatron-core's tensor_masked_update computes on a GPU only.")
