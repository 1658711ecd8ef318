"""Read a Hugging Face config.json and find the family that converts it. Pure: nothing is imported
from the model's folder.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import msgspec

from clora.errors import ModelError
from clora.families import families
from clora.families.base.hf_config import HFConfig
from clora.hf_names import TEXT_MODEL
from clora.regular_file import read_regular_file
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from pathlib import Path

    from clora.families.base.family import Family

LARGEST_FILE = 4 * 1024 * 1024
"""Bytes. A config.json has a few thousand; a larger file is something else, such as weights."""

_JSON_NAMES = {list: "array", str: "string", bool: "boolean", type(None): "null", int: "number", float: "number"}


def read_config(path: Path) -> HFConfig:
    """Return the object in the file at `path`.

    Raises:
        ModelError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        values = msgspec.json.decode(read_regular_file(path, LARGEST_FILE).removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from None
    # A deeply nested file ends in a RecursionError.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds a JSON {_JSON_NAMES[type(values)]}; a config.json holds an object.")
    if "schema" in values and "model_type" not in values:
        raise ModelError(f"{path} is a saved plan or a snapshot, which is planned already. Name a job or a model.")
    return HFConfig(origin=str(path), values=values)


def family_of(hf: HFConfig) -> Family:
    """Return the family of the config's `model_type`.

    Raises:
        ModelError: `model_type` is missing or not supported.
    """
    known, model_type = families(), hf.text("model_type")
    if model_type in known:
        return known[model_type]
    nested = hf.get("text_config")
    if isinstance(nested, dict) and isinstance(nested.get("model_type"), str) and nested["model_type"] in known:
        raise hf.error(
            "model_type",
            f"a model of several modalities. Save the object under text_config ({nested['model_type']}) as its own "
            "config.json, and plan that. To export adapters, give this file to clora.export_hf: in the whole model "
            f"the layers are {TEXT_MODEL}layers.*, and not model.layers.*.",
        )
    raise hf.error("model_type", f"not supported{nearest(model_type, known)} Supported: {', '.join(known)}.")
