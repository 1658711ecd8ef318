"""Make the kernels of a GPU exact in fp32, and the same bits in every run."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clora.errors import DeviceError
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


_EXACT = 1e-5
"""The largest relative error of a product in fp32; in TF32 it is 3e-4."""


@contextmanager
def reproducible_kernels(*, exact_fp32: bool) -> Iterator[None]:
    """Choose exact and deterministic kernels; restore what was chosen on exit.

    An operation that has no deterministic kernel is used as it is, with a warning.

    Args:
        exact_fp32: whether products in fp32 have to be exact.

    Raises:
        DeviceError: they are not, because this process multiplied on its GPU before.
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
            if exact_fp32 and torch.cuda.is_available():
                _require_exact_fp32()
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warns)
            filling.fill_uninitialized_memory = fills


def _require_exact_fp32() -> None:
    import torch

    generator = torch.Generator("cuda").manual_seed(1)
    factor = torch.randn(256, 256, device="cuda", generator=generator)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        product = (factor @ factor.T).double()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    exact = factor.double() @ factor.T.double()
    if float((product - exact).norm() / exact.norm()) > _EXACT:
        raise DeviceError(
            "A proof in float32 needs exact products, and this process used its GPU before they could be chosen: "
            "cuBLAS multiplies in TF32 from then on. Start the process with NVIDIA_TF32_OVERRIDE=0 in its "
            "environment, or prove in bfloat16."
        )
