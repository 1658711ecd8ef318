"""The one path from a Hugging Face `config.json` to megatron-core's numbers. Pure: nothing is
imported from the model's folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import ModelError
from clora_inspect.sources.families import deepseek, dense, moe, nemotron_h
from clora_inspect.sources.nearest import nearest
from clora_inspect.sources.reader import HFConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clora_inspect.sources.families.conversion import Conversion

CONVERTERS: dict[str, Callable[[HFConfig], Conversion]] = {
    "llama": dense.llama,
    "mistral": dense.mistral,
    "qwen2": dense.qwen2,
    "qwen3": dense.qwen3,
    "nemotron": dense.nemotron,
    "gemma2": dense.gemma2,
    "mixtral": moe.mixtral,
    "qwen3_moe": moe.qwen3_moe,
    "qwen3_next": moe.qwen3_next,
    "gpt_oss": moe.gpt_oss,
    "deepseek_v2": deepseek.deepseek_v2,
    "deepseek_v3": deepseek.deepseek_v3,
    "kimi_k2": deepseek.deepseek_v3,
    "nemotron_h": nemotron_h.nemotron_h,
}
"""`model_type` -> its converter."""

LARGEST_FILE = 4 * 1024 * 1024
"""Bytes. A config.json is a few thousand; a larger file is something else, such as weights."""


def read_config(path: Path) -> HFConfig:
    """The object in the file at `path`.

    Raises:
        ModelError: it cannot be read, is no JSON, or no object.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ModelError(f"{path} has {path.stat().st_size:,} bytes: that is no config.json.")
        values = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds a JSON {_json_kind(values)}; a config.json holds an object.")
    return HFConfig(origin=str(path), values=values)


def convert(hf: HFConfig) -> Conversion:
    """`hf` as megatron-core's numbers.

    Raises:
        ModelError: a `model_type` that is not supported, or a field that is missing or absurd.
    """
    model_type = hf.text("model_type")
    if model_type not in CONVERTERS:
        nested = hf.get("text_config")
        if isinstance(nested, dict) and nested.get("model_type") in CONVERTERS:
            raise hf.error(
                "model_type",
                f"a model of several modalities. Save the object under text_config ({nested['model_type']}) as its own config.json.",
            )
        raise hf.error(
            "model_type", f"not supported{nearest(model_type, CONVERTERS)} Supported: {', '.join(sorted(CONVERTERS))}."
        )
    return CONVERTERS[model_type](hf)


def _json_kind(value: Any) -> str:
    kinds = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")
