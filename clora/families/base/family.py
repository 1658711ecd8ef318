"""`Family`: all that clora knows about one family of Hugging Face models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clora.families.base.linear_names import LinearNames
from clora.families.base.model_kind import ModelKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How a family's config.json is read, which model is built of it, and how Hugging Face names
    the linears of that model.
    """

    model_types: tuple[str, ...]
    """Values of `model_type` in config.json, such as ("llama",)."""
    convert: Callable[[HFConfig], Conversion]
    """Translates a config.json into megatron-core's fields; raises `ModelError` for a field that is
    missing or cannot be built.
    """
    builds: ModelKind = ModelKind.GPT
    names: LinearNames = field(default_factory=LinearNames)
