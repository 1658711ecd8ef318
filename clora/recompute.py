"""Make activation recomputation and CUDA graphs train adapters in a model with a frozen base.

megatron-core recomputes a piece of the model in an autograd function (`CheckpointFunction`), whose
backward runs only when one of the tensors passed to it needs a gradient. Weights are not passed.
The first layer receives the output of the frozen embedding, so its piece gives no gradient, then
the next piece gives none, and so on: no adapter is trained, and nothing says so.

With `cuda_graph_impl = "local"` it captures the backward of each layer for an input that needs a
gradient, and an assertion without words fails while it captures the first layer, whose input needs
none.

Here the stack of layers gets an input that needs a gradient.

A recomputed MLP with biases returns the bias of its last linear, which is added later. What an
autograd function returns becomes part of its graph, and a parameter then stays so for ever: the
next backward recomputes without end. Here such an MLP returns a view of its bias.
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
    """Hook every stack of layers that has to get an input that needs a gradient.

    Args:
        model: one chunk of an adapted model.
        adapted_paths: paths of its adapted modules.

    Returns:
        The handles that remove the hooks; none when no weights are recomputed, nor layers captured.
    """
    return [
        module.register_forward_pre_hook(_require_input_gradient, with_kwargs=True)
        for path, module in model.named_modules()
        if _would_lose_gradients(path, module, adapted_paths)
        or (linears.is_block(module) and linears.captures_layers(module))
    ]


def return_views_of_biases(model: nn.Module) -> list[RemovableHandle]:
    """Hook every MLP that is recomputed as a whole, so that no parameter becomes part of a graph.

    Returns:
        The handles that remove the hooks.
    """
    mlps = [linears.recomputed_mlp(module) for module in model.modules()]
    return [mlp.register_forward_hook(_without_parameters) for mlp in mlps if mlp is not None]


def _without_parameters(_mlp: nn.Module, _args: tuple[Any, ...], outputs: Any) -> Any:
    if not isinstance(outputs, tuple):
        return outputs
    return tuple(each.view_as(each) if isinstance(each, torch.nn.Parameter) else each for each in outputs)


def loses_input_gradients(model: nn.Module, adapted_paths: Collection[str]) -> list[str]:
    """Return the paths of the stacks of layers whose recomputation loses the gradients of adapters.

    Args:
        model: one chunk of an adapted model.
        adapted_paths: paths of its adapted modules.
    """
    return [
        path
        for path, module in model.named_modules()
        if _would_lose_gradients(path, module, adapted_paths)
        and _require_input_gradient not in module._forward_pre_hooks.values()  # noqa: SLF001
    ]


def _would_lose_gradients(path: str, module: nn.Module, adapted_paths: Collection[str]) -> bool:
    return (
        linears.is_block(module)
        and linears.recomputes_parameters(module)
        and any(_is_in_or_behind(adapted, path) for adapted in adapted_paths)
    )


def _is_in_or_behind(adapted: str, block: str) -> bool:
    """Return whether the module at `adapted` is in the stack at `block`, or receives its output."""
    # Multi-token-prediction layers receive the output of the decoder.
    return not block or adapted.startswith((f"{block}.", f"{block.removesuffix('decoder')}mtp."))


def _require_input_gradient(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    states = args[0] if args else kwargs.get("hidden_states")
    # A later pipeline stage passes None: its input was given to the model by `set_input_tensor`.
    if (
        not block.training
        or not torch.is_grad_enabled()
        or not isinstance(states, torch.Tensor)
        or states.requires_grad
    ):
        return None
    # A view of its own, so that a tensor of the caller is not changed.
    wanting = states.detach().requires_grad_()
    return ((wanting, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": wanting})
