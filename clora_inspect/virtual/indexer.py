"""Let sparse attention's indexer run in any dtype.

`rotate_activation` of megatron-core asserts bf16, in which the CUDA kernel is called on a GPU. The
stand-in of `fast_hadamard_transform` takes every dtype, and proofs run in fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor

INDEXER_MODULE = "megatron.core.transformer.experimental_attention_variant.dsa"


def rotate_in_any_dtype(module: ModuleType) -> None:
    """Replace `module.rotate_activation` by the same rotation without its check of the dtype.

    Args:
        module: megatron-core's module `INDEXER_MODULE`, just imported. It is one of the virtual
            world's own modules, so nothing has to be restored.
    """

    def rotate_activation(x: Tensor) -> Tensor:
        rotated: Tensor = module.hadamard_transform(x, scale=x.size(-1) ** -0.5)
        return rotated

    vars(module)["rotate_activation"] = rotate_activation
