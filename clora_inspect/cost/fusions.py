"""Run modules with what training scripts choose where the model's config leaves it off: fused
kernels, of which an activation keeps its input alone, and outputs that are freed when they are
sent to the next stage.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import nn


@contextmanager
def usual_fusions(chunks: Sequence[nn.Module], written: Collection[str]) -> Iterator[None]:
    """Switch on, inside, what Megatron-LM's arguments switch on.

    Megatron-Bridge frees outputs as well. Its recipes do not all fuse: those of qwen3-8b leave the
    activation and the rotary embedding as they are, and a run's config says so.

    Args:
        chunks: the chunks that are run. Their configs are as before on exit.
        written: fields of the config that the user has set, which stay as they are.
    """
    with ExitStack() as stack:
        for config in _configs(chunks):
            fields = {name: True for name in _fitting(config) if name not in written}
            stack.enter_context(replaced(config, fields))
        yield


@contextmanager
def run_settings(chunks: Sequence[nn.Module], fields: Mapping[str, Any]) -> Iterator[None]:
    """Give the configs of `chunks`, inside, the fields of a run that change no module, but what one
    needs.
    """
    with ExitStack() as stack:
        for config in _configs(chunks) if fields else ():
            known = {name: value for name, value in fields.items() if hasattr(config, name)}
            stack.enter_context(replaced(config, known))
        yield


def _configs(chunks: Sequence[nn.Module]) -> list[Any]:
    found = (config for chunk in chunks for module in chunk.modules() if (config := _config_of(module)))
    return list({id(config): config for config in found}.values())


def _config_of(module: nn.Module) -> Any:
    config = vars(module).get("config")
    return config if hasattr(config, "bias_activation_fusion") else None


def _fitting(config: Any) -> Iterator[str]:
    """Yield the fields that can be true for a model."""
    yield "deallocate_pipeline_outputs"
    # Of experts the fused kernel knows no bias.
    biased_experts = config.num_moe_experts is not None and config.add_bias_linear
    is_swiglu = config.gated_linear_unit and config.activation_func is torch.nn.functional.silu and not biased_experts
    is_gelu = not config.gated_linear_unit and config.activation_func is torch.nn.functional.gelu
    if is_swiglu or (is_gelu and config.add_bias_linear):
        yield "bias_activation_fusion"
    # The kernel for latent attention is another one, in Triton.
    if not config.multi_latent_attention and not config.rotary_interleaved:
        yield "apply_rope_fusion"
