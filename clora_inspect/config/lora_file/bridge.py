"""Translate the `peft` section of a run of Megatron-Bridge into arguments of `CanonicalLoRA`.

The section is data: `_target_` is compared with the names of known classes, and nothing that it
names is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora.errors import CloraError
from clora.fused import FUSED
from clora_inspect.config.lora_file.errors import LoRAFileError
from clora_inspect.config.settings import LoRATable
from clora_inspect.sources.nearest import nearest
from clora_inspect.sources.run.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PACKAGE = "megatron.bridge.peft."

CANONICAL = "CanonicalLoRA"
_OTHERS = {
    "LoRA": "it has one pair A and B for a whole linear_qkv or linear_fc1",
    "VLMLoRA": "it has one pair A and B for a whole linear_qkv or linear_fc1",
    "DoRA": "it has a magnitude beside A and B, and one pair for a whole linear_qkv or linear_fc1",
}
"""Class -> why it is no canonical LoRA."""

_SCHEMES = {"canonical_lora": CANONICAL, "lora": "LoRA", "vlm_lora": "VLMLoRA", "dora": "DoRA"}
"""`peft_scheme`, the word by which recipes choose, without separators and case -> class."""

_FUSED_DEFAULT = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
"""Default of `target_modules` of the other classes."""

_HARMLESS = frozenset({"_target_", "peft_scheme", "canonical_mapping", "params_to_save", "a2a_experimental"})
"""Keys that do not change what is adapted. `a2a_experimental` only moves data in another way."""

_DEFAULTS = {"freeze_vision_model": True, "freeze_vision_projection": True, "freeze_language_model": True}
"""Key -> its value while only adapters are trained."""


def bridge_arguments(section: Mapping[str, Any], path: Path, *, gated: bool, as_canonical: bool) -> dict[str, Any]:
    """Return the arguments of the `CanonicalLoRA` that a `peft` section describes.

    Args:
        section: the section.
        path: its file, for messages.
        gated: whether the MLPs of the model have a gate, or that is not known.
        as_canonical: True to plan another PEFT type as canonical LoRA with the same targets.

    Raises:
        LoRAFileError: the section is of another PEFT type, or a key cannot be honoured.
    """
    kind = _kind(section, path)
    if kind != CANONICAL and not as_canonical:
        raise LoRAFileError(
            f"{path}: the peft section is {kind} of Megatron-Bridge, and no canonical LoRA: {_OTHERS[kind]}. To plan "
            "canonical LoRA with its targets instead: --lora-as-canonical, or lora-as-canonical = true in the job."
        )
    fields = {name: value for name, value in section.items() if name in LoRATable.__struct_fields__}
    _refuse_unknown(section, path)
    if kind != CANONICAL:
        fields.setdefault("target_modules", list(_FUSED_DEFAULT))
    try:
        # null means that nothing is written.
        written = {name: value for name, value in fields.items() if value is not None}
        arguments = msgspec.convert(written, LoRATable).written()
    except (msgspec.ValidationError, OverflowError) as error:
        raise LoRAFileError(f"{path}: the peft section is not what it should be: {error}.") from None
    if kind != CANONICAL:
        arguments["target_modules"] = _split(arguments["target_modules"], gated=gated)
    try:
        CanonicalLoRA(**arguments)
    except CloraError as error:
        raise LoRAFileError(f"{path}: {error}") from None
    return arguments


def _kind(section: Mapping[str, Any], path: Path) -> str:
    """Return the name of the section's class."""
    target, scheme = section.get("_target_"), section.get("peft_scheme")
    if target is None and scheme is None:
        raise LoRAFileError(
            f"{path}: the peft section has neither _target_ nor peft_scheme, so that it says of no PEFT type. Add "
            f'_target_ = "{PACKAGE}canonical_lora.{CANONICAL}".'
        )
    if target is None:
        word = scheme if isinstance(scheme, str) else ""
        kind = _SCHEMES.get(word.lower().replace("-", "_"))
        if kind is None:
            known = ", ".join(_SCHEMES)
            raise LoRAFileError(
                f"{path}: peft_scheme = {shown(scheme)} is not known{nearest(word, _SCHEMES)} Known: {known}."
            )
        return kind
    named = target if isinstance(target, str) else ""
    kind = named.rpartition(".")[2]
    if not named.startswith(PACKAGE) or (kind != CANONICAL and kind not in _OTHERS):
        known = ", ".join((CANONICAL, *_OTHERS))
        raise LoRAFileError(
            f"{path}: _target_ = {shown(target)} is no PEFT type that is known here; known are {known} in "
            f"{PACKAGE.rstrip('.')}. Nothing is imported from it."
        )
    return kind


def _refuse_unknown(section: Mapping[str, Any], path: Path) -> None:
    for name, value in section.items():
        is_off = value == _DEFAULTS[name] if name in _DEFAULTS else not value
        if name in LoRATable.__struct_fields__ or name in _HARMLESS or is_off:
            continue
        # A private name is state of the object, which its class derives again.
        if isinstance(name, str) and name.startswith("_"):
            continue
        raise LoRAFileError(
            f"{path}: the peft section has {shown(name)} = {shown(value)}, which canonical LoRA cannot "
            "express. Take it out of the file to plan the rest."
        )


def _split(targets: list[str], *, gated: bool) -> list[str]:
    """Name the parts of fused linears instead of the linears."""
    found: dict[str, None] = {}
    for target in targets:
        stem, dot, last = target.rpartition(".")
        parts = FUSED.get(last, {})
        names = [name for part, name in parts.items() if gated or part != "gate"] or [last]
        found |= {f"{stem}{dot}{name}": None for name in names}
    return list(found)
