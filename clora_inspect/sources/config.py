"""Make megatron-core's config object for one rank. Call it inside a virtual world."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from clora.errors import ModelError
from clora_inspect.sources.definition import UNDECLARED
from clora_inspect.sources.errors import refusals_of_megatron
from clora_inspect.sources.layout_fields import layout_fields
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition


def make_config(definition: ModelDefinition, layout: Layout, device: torch.device) -> Any:
    """Return a `TransformerConfig` (or `MLATransformerConfig`) for the rank that is being played.

    Raises:
        ModelError: megatron-core does not have a field, or refuses a value.
    """
    from megatron.core.transformer import MLATransformerConfig, TransformerConfig

    config_class = MLATransformerConfig if definition.config.get("multi_latent_attention") else TransformerConfig
    dtype = _dtype(definition)
    fields = {
        **definition.config,
        **layout_fields(layout),
        **definition.split(layout).fields,
        **build_fields(dtype, device),
        "params_dtype": dtype,
        # It fuses gradients of the base's weights, which are frozen, and needs a kernel of Apex.
        "gradient_accumulation_fusion": False,
    }
    if "activation_func" in fields:
        fields["activation_func"] = _activation(fields["activation_func"])
    # JSON has no tuples, and megatron-core declares one.
    if isinstance(fields.get("window_size"), list):
        fields["window_size"] = tuple(fields["window_size"])
    _check_fields(fields, config_class)
    with refusals_of_megatron(f"megatron-core refuses the config of {definition.name}"):
        config = config_class(**fields)
    for name, value in definition.model.items():
        if name.startswith(UNDECLARED):
            setattr(config, name, value)
    return config


def _check_fields(fields: Mapping[str, Any], config_class: type[Any]) -> None:
    """Refuse fields that megatron-core does not have, and null where it needs a value.

    megatron-core itself would answer a null with words such as "unsupported operand type(s)".
    """
    declared = {field.name: field for field in dataclasses.fields(config_class)}
    for name, value in fields.items():
        if name not in declared:
            known = nearest(name, declared)
            raise ModelError(f"model.{name}: megatron-core's {config_class.__name__} has no such field{known}")
        default = declared[name].default
        # Without it the queries of multi-latent attention are not compressed.
        if value is None and default is not None and name != "q_lora_rank":
            usual = "" if default in (dataclasses.MISSING, 0) else f" megatron-core's own is {default!r}."
            raise ModelError(f"model.{name} = null: the model needs a value. Leave it out of --set.{usual}")


def build_fields(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return the fields that say how this tool builds a model, and nothing about the model."""
    on_meta = device.type == "meta"
    return {
        "pipeline_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        # On the meta device there are no values to draw.
        "perform_initialization": not on_meta,
        "init_model_with_meta_device": on_meta,
    }


def _dtype(definition: ModelDefinition) -> torch.dtype:
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
    name = definition.config.get("params_dtype", "float32")
    if not isinstance(name, str) or name not in dtypes:
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
