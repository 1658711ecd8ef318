"""What a built model says of itself: the fields of its config that are not the default, as JSON
values. Rules read them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.job.layout import Layout

_OF_THE_BUILD = frozenset({"perform_initialization", "init_model_with_meta_device", "pipeline_dtype", "bf16", "fp16"})
"""Fields that say how we built the model, not what it is."""

_OF_THE_MODEL = ("vocab_size", "max_sequence_length", "share_embeddings_and_output_weights", "position_embedding_type")
"""Attributes of the model object that its config does not have."""


def config_facts(model: nn.Module, layout: Layout) -> dict[str, Any]:
    """Field -> JSON value, for every field of the model's config that differs from its default;
    sorted.

    Functions and dtypes go by name. Fields that the layout decides are left out: they are in the
    layout.
    """
    from clora_inspect.sources.config import layout_fields

    facts = {name: getattr(model, name) for name in _OF_THE_MODEL if hasattr(model, name)}
    config: Any = getattr(model, "config", None)
    if dataclasses.is_dataclass(config):
        left_out = _OF_THE_BUILD | set(layout_fields(layout))
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.name not in left_out and not _is_default(field, value):
                facts[field.name] = value
    named = {name: _as_json(value) for name, value in facts.items()}
    return {name: named[name] for name in sorted(named) if named[name] is not None}


def _is_default(field: dataclasses.Field[Any], value: object) -> bool:
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return type(value) is type(default) and value == default


def _as_json(value: object) -> Any:
    """JSON's own types as they are, functions and dtypes by name, anything else (None) not at all."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    name = getattr(value, "__name__", None) or (str(value) if str(value).startswith("torch.") else None)
    return name.removeprefix("torch.") if isinstance(name, str) and name not in ("<lambda>", "init_") else None
