"""megatron-core's config object for one rank, from a definition and a layout. Imports
megatron-core: call inside a virtual world.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError, ModelError
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    import torch

    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition

UNDECLARED = ("yarn_", "attn_logit_softcapping", "final_logit_softcapping")
"""Beginnings of the names that model classes read off their config although it does not declare
them.
"""


def make_config(definition: ModelDefinition, layout: Layout, device: torch.device) -> Any:
    """A `TransformerConfig` (or `MLATransformerConfig`) for the rank that is being played.

    Raises:
        ModelError: a field that megatron-core does not have, or a value that it refuses.
    """
    import torch
    from megatron.core.transformer import MLATransformerConfig, TransformerConfig

    kind = MLATransformerConfig if definition.config.get("multi_latent_attention") else TransformerConfig
    declared = {field.name for field in dataclasses.fields(kind)}
    dtype = _dtype(definition)
    fields = definition.config | layout_fields(layout) | dict(definition.split(layout).fields)
    fields |= {
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "gradient_accumulation_fusion": False,
        # On the meta device there is nothing to draw numbers for.
        "perform_initialization": device.type != "meta",
        "init_model_with_meta_device": device.type == "meta",
    }
    if "activation_func" in fields:
        fields["activation_func"] = _activation(fields["activation_func"])
    if isinstance(fields.get("window_size"), list):
        fields["window_size"] = tuple(fields["window_size"])
    unknown = [name for name in fields if name not in declared]
    for name in unknown:
        raise ModelError(f"model.{name}: megatron-core's {kind.__name__} has no such field{nearest(name, declared)}")
    try:
        config = kind(**fields)
    except CloraError:
        raise
    except (ValueError, TypeError, AssertionError, RuntimeError, ArithmeticError) as error:
        raise ModelError(f"megatron-core refuses the config of {definition.name}: {said(error)}") from error
    for name, value in definition.model.items():
        if name.startswith(UNDECLARED):
            setattr(config, name, value)
    return config


def layout_fields(layout: Layout) -> dict[str, Any]:
    """The fields of a `TransformerConfig` that say how it is spread."""
    return {
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.vpp if layout.vpp > 1 else None,
        "context_parallel_size": layout.cp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.etp,
        "sequence_parallel": layout.sequence_parallel,
    }


def _dtype(definition: ModelDefinition) -> torch.dtype:
    import torch

    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
    name = definition.config.get("params_dtype", "float32")
    if name not in dtypes:
        raise ModelError(f"model.params_dtype = {name!r}: it is one of {', '.join(dtypes)}.")
    return dtypes[name]


def _activation(name: object) -> Any:
    from megatron.core.activations import fast_gelu, squared_relu
    from megatron.core.fusions.fused_bias_geglu import quick_gelu
    from torch.nn import functional

    activations = {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "relu": functional.relu,
        "fast_gelu": fast_gelu,
        "quick_gelu": quick_gelu,
        "squared_relu": squared_relu,
    }
    if not isinstance(name, str) or name not in activations:
        raise ModelError(f"model.activation_func = {name!r}: it is one of {', '.join(activations)}.")
    return activations[name]


def said(error: Exception) -> str:
    """What an exception says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
