"""Collect the fields of a built model's config that are not the default, as JSON for the rules."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.sources.config import build_fields
from clora_inspect.sources.layout_fields import layout_fields

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.job.layout import Layout

_MODEL_ATTRIBUTES = (
    "vocab_size",
    "max_sequence_length",
    "share_embeddings_and_output_weights",
    "position_embedding_type",
)
"""Attributes of the model object that its config does not have."""


def config_facts(model: nn.Module, layout: Layout) -> dict[str, Any]:
    """Return the JSON value of every field of the model's config that differs from its default,
    sorted by name.

    Functions and dtypes are given by name. Fields that the layout decides are left out, because a
    plan has the layout, and so are those that say how the model was built. Sequence parallelism is
    there if a function has built its model with another than the layout's.
    """
    facts = {name: getattr(model, name) for name in _MODEL_ATTRIBUTES if hasattr(model, name)}
    config: Any = getattr(model, "config", None)
    if dataclasses.is_dataclass(config):
        # Only the names count, so any dtype and device will do.
        left_out = {*layout_fields(layout), *build_fields(torch.float32, torch.device("meta"))}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.name not in left_out and not _is_default(field, value):
                facts[field.name] = value
            # Other axes show in the shapes of the weights. This one shows in the forward only.
            if field.name == "sequence_parallel" and value != layout.sequence_parallel:
                facts[field.name] = value
    named = {name: _as_json(value) for name, value in facts.items()}
    return {name: named[name] for name in sorted(named) if named[name] is not None}


def _is_default(field: dataclasses.Field[Any], value: object) -> bool:
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return type(value) is type(default) and value == default


def _as_json(value: object) -> Any:
    """Return JSON's own types as they are, functions, dtypes and members of enumerations as their
    names, and None for everything else.
    """
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    name = getattr(value, "__name__", None)
    # megatron-core's initialisers are closures called `init_`: the name says nothing.
    return name if isinstance(name, str) and name not in ("<lambda>", "init_") else None
