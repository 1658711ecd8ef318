"""Make megatron-core's config object for one rank. Call it inside a virtual world."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

import torch

from clora.errors import ModelError, short
from clora_inspect.sources.definition import UNDECLARED
from clora_inspect.sources.errors import refusals_of_megatron
from clora_inspect.sources.exchange import KINDS
from clora_inspect.sources.field_types import fits, words_for
from clora_inspect.sources.layout_fields import layout_fields
from clora_inspect.sources.nearest import nearest
from clora_inspect.virtual.releases import counts_exchanges_from_one

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition

_ARGUMENT_TYPES: dict[str, Any] = {
    # Declared as an int. Hugging Face writes 10000.0.
    "rotary_base": float,
    # Declared as a str; its default is None.
    "hybrid_override_pattern": str | None,
}
"""Arguments of model classes -> what they hold, where the annotation is another."""

_UNDECLARED_TYPES: dict[str, Any] = {
    "yarn_correction_range_round_to_int": bool,
    "yarn_original_max_position_embeddings": int,
}
"""Attributes of configs -> what they hold. All others are numbers."""


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
        fields["activation_func"] = _activation(definition, fields["activation_func"])
    # JSON has no tuples, and megatron-core declares one.
    if isinstance(fields.get("window_size"), list):
        fields["window_size"] = tuple(fields["window_size"])
    _check_fields(definition, fields, config_class)
    _check_exchange(definition, layout)
    fields = {name: _member(value, config_class, name) for name, value in fields.items()}
    # Models write their config into this folder when they are built. Planning writes nothing.
    fields["config_logger_dir"] = ""
    names = {field.name for field in dataclasses.fields(config_class)}
    with refusals_of_megatron(f"megatron-core refuses the config of {definition.name}", names):
        config = config_class(**fields)
    for name, value in definition.model.items():
        if name.startswith(UNDECLARED):
            setattr(config, name, value)
    return config


def _check_fields(definition: ModelDefinition, fields: Mapping[str, Any], config_class: type[Any]) -> None:
    """Refuse fields that megatron-core does not have, and values of another type than it declares.

    megatron-core itself would answer with words such as "unsupported operand type(s)".
    """
    declared = {field.name: field for field in dataclasses.fields(config_class)}
    for name, value in fields.items():
        if name not in declared:
            known = nearest(name, declared)
            raise ModelError(f"model.{name}: megatron-core's {config_class.__name__} has no such field{known}")
        default = declared[name].default
        if value is None:
            # Without it the queries of multi-latent attention are not compressed.
            if default is not None and name != "q_lora_rank":
                usual = "" if default in (dataclasses.MISSING, 0) else f" megatron-core's own is {_shown(default)}."
                raise ModelError(f"model.{name} = null: the model needs a value. Leave it out of --set.{usual}")
        else:
            check_type(definition.key(name), value, _types_of(config_class)[name])


_types_of: Callable[[Any], dict[str, Any]] = cache(get_type_hints)
"""Returns name -> annotation of the fields of a class, or of the arguments of a function."""


def _check_exchange(definition: ModelDefinition, layout: Layout) -> None:
    """Refuse a `cp_comm_type` that is none, or a list that this release of megatron-core cannot
    read.
    """
    written, key = definition.config.get("cp_comm_type"), definition.key("cp_comm_type")
    words = written if isinstance(written, list) else [written]
    unknown = [word for word in words if isinstance(word, str) and word not in KINDS]
    if unknown:
        raise ModelError(f"{key} = {unknown[0]!r:.80}: it is one of {', '.join(KINDS)}, or a list of them.")
    if not isinstance(written, list) or layout.cp == 1:
        return
    if counts_exchanges_from_one():
        raise ModelError(
            f"{key} is a list: this release of megatron-core reads the entry after a layer's own, so that the last "
            "layer has none (IndexError). Write one word for all layers, or use megatron-core 0.17 or later."
        )


def check_type(key: str, value: object, declared: Any) -> None:
    """Refuse a value of another type than `declared`.

    Raises:
        ModelError: with the field, the value and what it should be.
    """
    if not fits(value, declared):
        raise ModelError(f"{key} = {short(value)}: it is {words_for(declared)}.")


def check_arguments(definition: ModelDefinition, model_class: type[Any]) -> None:
    """Refuse arguments of another type than `model_class` declares, and attributes of the config
    that it reads and no config class declares.

    Raises:
        ModelError: with the argument, the value and what it should be.
    """
    declared = {**_types_of(model_class.__init__), **_ARGUMENT_TYPES}
    for name, value in definition.model.items():
        if name.startswith(UNDECLARED):
            check_type(definition.key(name), value, _UNDECLARED_TYPES.get(name, float | None))
        elif name in declared:
            check_type(definition.key(name), value, declared[name])


def _member(value: object, config_class: type[Any], name: str) -> object:
    """Return the member of an enumeration that a string names, where a field is one."""
    declared = _types_of(config_class)[name]
    is_enumeration = isinstance(declared, type) and issubclass(declared, Enum)
    return declared[value] if is_enumeration and isinstance(value, str) else value


def _shown(default: object) -> str:
    return repr(default.name if isinstance(default, Enum) else default)


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
        raise ModelError(f"{definition.key('params_dtype')} = {name!r}: it is one of {', '.join(dtypes)}.")
    return dtypes[name]


def _activation(definition: ModelDefinition, name: object) -> Any:
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
        raise ModelError(f"{definition.key('activation_func')} = {name!r}: it is one of {', '.join(activations)}.")
    return activations[name]
