"""Activation recomputation with a frozen base: let gradients into the first layer, or no adapter is
trained.

A recomputed piece of the model runs backward only when its input wants a gradient. Later layers and
later pipeline stages have such inputs; the first layer's is the output of a frozen embedding. So
the stack of layers is given an input that wants one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clora import linears

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn
    from torch.utils.hooks import RemovableHandle


def enable_input_gradients(model: nn.Module, adapted_paths: Collection[str]) -> list[RemovableHandle]:
    """Hook the stacks of `model` whose recomputation would leave the adapters at `adapted_paths`
    without a gradient.

    Returns:
        Handles that undo it; none where nothing with weights is recomputed.
    """
    return [
        module.register_forward_pre_hook(_require_input_gradient, with_kwargs=True)
        for path, module in model.named_modules()
        if linears.is_block(module)
        and linears.recomputes_parameters(getattr(module, "config", None))
        and any(_is_in_or_behind(adapted, path) for adapted in adapted_paths)
    ]


def _is_in_or_behind(adapted: str, block: str) -> bool:
    """Whether the module at `adapted` stands in the stack at `block`, or behind it: multi-token
    prediction follows the decoder.
    """
    return not block or adapted.startswith(f"{block}.") or (adapted.startswith("mtp.") and block == "decoder")


def _require_input_gradient(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    states = args[0] if args else kwargs.get("hidden_states")
    if (
        not block.training
        or not torch.is_grad_enabled()
        or not isinstance(states, torch.Tensor)
        or states.requires_grad
    ):
        return None
    wanting = states.detach().requires_grad_()
    return ((wanting, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": wanting})
