"""Have rotary frequencies computed where they have values."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

MODULE = "megatron.core.models.common.embeddings.rotary_pos_embedding"


def compute_on_the_cpu(module: ModuleType) -> None:
    """Let `RotaryEmbedding` initialise on the CPU, as megatron-core lets a user choose; a forward
    moves it to the device.

    On meta, torch works out the shapes of these few divisions in Python, with sympy, whose import
    is an eighth of what it costs to plan a small model.
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
