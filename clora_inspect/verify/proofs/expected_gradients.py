"""Check gradients after a backward: adapters must have them, finite and not zero, and the base must
have none. Shared by several proofs.
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
    """Return the gradient from megatron-core's data-parallel buffer where there is one, else from
    `.grad`.
    """
    # DistributedDataParallel adds this attribute to the parameters that it reduces.
    main: torch.Tensor | None = getattr(parameter, "main_grad", None)
    return main if main is not None else parameter.grad


def check_gradients(adapted: AdaptedModel, *, under: str = "") -> tuple[int, int]:
    """Check all gradients after a backward with random A and B.

    Args:
        adapted: the model.
        under: for the message, the setting under which the backward ran, such as " under full
            recomputation".

    Returns:
        Tensors and elements that were checked.

    Raises:
        Refuted: a factor has no gradient, or the base has one.
    """
    tensors = elements = 0
    for site in adapted.sites:
        if adapted.unfed.holds(site):
            continue
        for name, parameter in (("A", site.a), ("B", site.b)):
            gradient = gradient_of(parameter)
            if gradient is None or not bool(gradient.ne(0).any()):
                raise Refuted(
                    f"{name} gets {'no' if gradient is None else 'a zero'} gradient{under}: this adapter would never "
                    "learn, and nothing would report it.",
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
