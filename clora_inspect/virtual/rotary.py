"""Compute rotary frequencies on the CPU, also when the model is built on meta.

`RotaryEmbedding.__init__` of megatron-core computes `inv_freq` on `torch.cuda.current_device()`,
which is meta here. On meta, torch derives the shapes of these few divisions with sympy, and
importing sympy is an eighth of the cost of planning a small model.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

ROTARY_MODULE = "megatron.core.models.common.embeddings.rotary_pos_embedding"


def compute_on_the_cpu(module: ModuleType) -> None:
    """Make `module.RotaryEmbedding` ignore its argument `use_cpu_initialization`: it is always
    true.

    The option is megatron-core's own, so its forward moves the frequencies to the input's device.

    Args:
        module: megatron-core's module `ROTARY_MODULE`, just imported. It is one of the virtual
            world's own modules, so nothing has to be restored.
    """
    rotary = module.RotaryEmbedding
    initialise = rotary.__init__
    signature = inspect.signature(initialise)

    @functools.wraps(initialise)
    def initialise_on_the_cpu(*arguments: Any, **options: Any) -> None:
        bound = signature.bind(*arguments, **options)
        bound.arguments["use_cpu_initialization"] = True
        initialise(*bound.args, **bound.kwargs)

    rotary.__init__ = initialise_on_the_cpu
