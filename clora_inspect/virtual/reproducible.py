"""Make the kernels of a GPU exact in fp32, and the same bits in every run."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clora_inspect.virtual.attributes import environment_restored

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENVIRONMENT = {
    # Transformer Engine multiplies fp32 matrices in TF32, which keeps 10 bits after the leading
    # one: a product is off by 3e-4, where the proofs in fp32 allow 1e-4.
    "NVIDIA_TF32_OVERRIDE": "0",
    # cuBLAS sums in the same order only with workspaces of a fixed size.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Variables that CUDA's libraries read when they are first used in a process."""


@contextmanager
def reproducible_kernels() -> Iterator[None]:
    """Choose exact and deterministic kernels; restore what was chosen on exit.

    Enter it before the process multiplies on its GPU for the first time: afterwards TF32 stays on.
    An operation that has no deterministic kernel is used as it is, with a warning.
    """
    import torch

    enabled = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    # A property of the module, which torch's type information does not have.
    filling: Any = torch.utils.deterministic
    fills = filling.fill_uninitialized_memory
    with environment_restored():
        os.environ.update(_ENVIRONMENT)
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        # It would fill every new tensor with NaN, which costs time and finds nothing of ours.
        filling.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warns)
            filling.fill_uninitialized_memory = fills
