"""What must hold of gradients after any backward: adapters have them, finite and not zero, and the
base has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.sites import base_name, is_adapter, parameters_of
from clora_inspect.verify.outcome import Refuted

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.model_under_test import AdaptedModel


def gradient_of(parameter: nn.Parameter) -> torch.Tensor | None:
    """Where it lies: in the data-parallel buffer of megatron-core, else in `.grad`."""
    main: torch.Tensor | None = getattr(parameter, "main_grad", None)
    return main if main is not None else parameter.grad


def check_gradients(adapted: AdaptedModel, *, under: str = "") -> tuple[int, int]:
    """Tensors and elements that were looked at.

    Args:
        adapted: after a backward with random A and B.
        under: what the backward was run under, for the message.

    Raises:
        Refuted: a factor without a gradient, or the base with one.
    """
    tensors = elements = 0
    for site in adapted.sites:
        for name, parameter in (("A", site.a), ("B", site.b)):
            gradient = gradient_of(parameter)
            if gradient is None or not bool(gradient.ne(0).any()):
                raise Refuted(
                    f"{name} gets {'no' if gradient is None else 'a zero'} gradient{under}: this adapter would never "
                    "learn, and nothing would say so.",
                    where=site.at,
                )
            if not bool(torch.isfinite(gradient).all()):
                raise Refuted(f"The gradient of {name} is not finite{under}.", where=site.at)
            tensors, elements = tensors + 1, elements + gradient.numel()
    for name, parameter in parameters_of(adapted.chunks):
        if not is_adapter(name) and gradient_of(parameter) is not None:
            raise Refuted(
                f"{base_name(name)} of the base gets a gradient{under}: it should be frozen.",
                where=base_name(name).rpartition(".")[0],
            )
    return tensors, elements
