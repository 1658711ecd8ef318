"""Read a Hugging Face config.json and find the family that converts it. Pure: nothing is imported
from the model's folder.
"""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING

from clora.errors import ModelError
from clora.families import families
from clora.families.base.hf_config import HFConfig
from clora.families.multimodal import MULTIMODAL, text_field_of, text_values
from clora.families.unbuildable import UNBUILDABLE
from clora.folders.regular_file import read_regular_file
from clora_inspect.sources.nearest import misspelt

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
        # Python's own reader, as transformers': it takes Infinity and NaN.
        values = json.loads(read_regular_file(path, LARGEST_FILE).removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from None
    # A deeply nested file ends in a RecursionError, an integer of 4,301 digits in a ValueError.
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds a JSON {_JSON_NAMES[type(values)]}; a config.json holds an object.")
    if "schema" in values and "model_type" not in values:
        raise ModelError(f"{path} is a saved plan or a snapshot, which is planned already. Name a job or a model.")
    return HFConfig(origin=str(path), values=values)


def family_of(hf: HFConfig) -> Family:
    """Return the family of the config's `model_type`.

    Raises:
        ModelError: `model_type` is missing or not supported, or `architectures` has another head
            than a causal language model.
    """
    known, model_type = families(), hf.text("model_type")
    if model_type not in known:
        raise _unsupported(hf)
    _refuse_other_head(hf)
    return known[model_type]


def text_part(hf: HFConfig) -> HFConfig | None:
    """Return the config of the text model in a model of several modalities; None if `hf` is of a
    model that stands alone.

    Raises:
        ModelError: `architectures` has another head than a causal language model.
    """
    values = text_values(hf.values)
    if values is None:
        return None
    _refuse_other_head(hf)
    fields = text_field_of(hf.values)
    nested = isinstance(hf.get(fields[0]), dict)
    return HFConfig(origin=f"{hf.origin}: {'.'.join(fields)}" if nested else hf.origin, values=values)


_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForImageTextToText")
"""Ends of the names of architectures that end in an output layer over the vocabulary."""


def _refuse_other_head(hf: HFConfig) -> None:
    named = hf.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        return
    known = MULTIMODAL.get(hf.text("model_type"))
    # transformers builds the first.
    if not named[0].endswith(_HEADS) and named[0] not in (known.architectures if known else ()):
        raise hf.error(
            "architectures",
            "the model has another head than the output layer over the vocabulary which is built here, or none. To "
            "plan the language model below it, write its ...ForCausalLM there; to plan the model with its head, build "
            "it in a function (FILE.py:FUNCTION).",
        )


def _unsupported(hf: HFConfig) -> ModelError:
    known, model_type = families(), hf.text("model_type")
    text = hf.get(text_field_of(hf.values)[0])
    inner = text.get("model_type") if isinstance(text, dict) else None
    # A model of several modalities is as buildable as its text model.
    reason = UNBUILDABLE.get(model_type) or (UNBUILDABLE.get(inner) if isinstance(inner, str) else None)
    if reason is not None:
        return hf.error("model_type", f"{reason} Build it in a function: FILE.py:FUNCTION, see docs/your-model.md.")
    typo = misspelt(model_type, [*known, *MULTIMODAL])
    if typo is not None:
        return hf.error("model_type", f"not supported. Did you mean {typo}?")
    return hf.error(
        "model_type",
        "not supported. Build the model in a function, and plan FILE.py:FUNCTION (docs/your-model.md); the function "
        f"may return a provider of Megatron-Bridge. Supported: {', '.join([*known, *MULTIMODAL])}.",
    )
