"""Read what a PEFT `adapter_config.json` makes of its pairs A and B, and refuse what is no LoRA.

A folder that can be imported means `W + (alpha / r) B A`, with W as the base model was released.
Many options of PEFT keep the two files and change that: some initialisations subtract from W, some
methods let tokens choose, others add a third matrix. So this is a list of what is known to be
harmless, read from the source of PEFT 0.21.2. A field that is not in it may stand in a config with
an empty value only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from clora.errors import HFAdapterError
from clora.limits import LARGEST_DIM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HARMLESS_FIELDS = {
    # Who made it, for what, from what.
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"),
    # They name the adapted linears, and so does the file of weights.
    *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),
    # Only training or loading looks at them. VeLoRA changes the backward pass alone.
    *("lora_dropout", "merge_weights", "runtime_config", "velora_config"),
    # They belong to a field that is checked, and without it PEFT ignores them.
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
    # Only tied embeddings and heads are affected; `clora.folders.hf_folder` looks for them.
    "ensure_weight_tying",
}
"""Fields that do not change what a pair means, whatever their value is."""

_MERGE = "Merge it with PEFT (merge_and_unload) and convert the merged model"

REFUSED_FIELDS = {
    "alora_invocation_tokens": (
        "the adapter of aLoRA counts from its invocation tokens on, and not for the tokens before them",
        "Train a plain LoRA, or serve the folder with an engine that knows aLoRA",
    ),
    "arrow_config": ("Arrow chooses among adapters for each token", "Import the adapters one by one"),
    "bias": ("biases of the base are trained too", _MERGE),
    "enable_lora": ("one matrix adapts some of the parts of a fused linear", _MERGE),
    "fan_in_fan_out": ("the base keeps its weights transposed, as GPT-2 does", _MERGE),
    "kasa_config": ("KaSA changes the base and has a third matrix between A and B", _MERGE),
    "layer_replication": ("layers of the base are repeated", _MERGE),
    "lora_bias": ("B has a bias", _MERGE),
    "megatron_config": (
        "it adapts PEFT's own wrappers of Megatron's fused linears, not the linears of the Hugging Face model",
        "Save the adapters with the trainer that made them",
    ),
    "modules_to_save": ("whole modules are trained beside the pairs", _MERGE),
    "monteclora_config": ("MonteCLoRA draws random samples of the adapter", _MERGE),
    "target_parameters": ("parameters are adapted that are no linears", _MERGE),
    "trainable_token_indices": ("rows of the embedding are trained beside the pairs", _MERGE),
    "use_bdlora": ("the factors of BD-LoRA are block-diagonal and stored without their zeros", _MERGE),
    "use_dora": ("DoRA has a magnitude beside A and B", _MERGE),
    "use_qalora": ("QALoRA averages groups of the input before A", _MERGE),
}
"""Field -> (why its pairs are no plain LoRA, what to do) of the known fields that must be empty."""

HARMLESS_INITS = ("gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights`, beside true, false and null, that leave the base as it is."""

_AS_PLAIN_LORA = (
    "Save it as plain LoRA, which doubles r: model.save_pretrained(FOLDER, "
    "path_initial_model_for_weight_conversion=FOLDER_OF_THE_UNTRAINED_ADAPTER). Without that folder: "
    f"{_MERGE[0].lower()}{_MERGE[1:]}"
)

REFUSED_INITS = {
    "pissa": _AS_PLAIN_LORA,
    "olora": _AS_PLAIN_LORA,
    "corda": _AS_PLAIN_LORA,
    "lora_ga": _AS_PLAIN_LORA,
    "loftq": f"Use an adapter of the released base, or: {_MERGE[0].lower()}{_MERGE[1:]}",
}
"""Start of the values of `init_lora_weights` under which PEFT changes the base -> what to do."""

_OFF_VALUES = {"bias": "none"}
"""Field that must be empty -> the word by which it is."""

_LITERAL = re.compile(r"[\w.\-]+")
"""A pattern of PEFT that is only a name. PEFT runs others as regular expressions."""


Rank = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_DIM)]


class PeftLora(msgspec.Struct, frozen=True):
    """The fields of PEFT's `LoraConfig` that say what its pairs mean, with PEFT's defaults."""

    peft_type: str
    r: Rank = 8
    lora_alpha: float = 8
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool | None = False
    init_lora_weights: bool | str | None = True
    ensure_weight_tying: bool | None = False

    def rank(self, module: str) -> int:
        """Return the rank of the pair of the linear at `module`."""
        return int(_lookup(self.rank_pattern, module, self.r))

    def alpha(self, module: str) -> float:
        """Return `lora_alpha` of the linear at `module`."""
        return float(_lookup(self.alpha_pattern, module, self.lora_alpha))


def peft_lora(fields: Mapping[str, Any], path: Path, *, otherwise: str | None = None) -> PeftLora:
    """Return what the object in an `adapter_config.json` says of its pairs.

    Args:
        fields: the object.
        path: its file, for messages.
        otherwise: what to do about a field that is refused, where there are no weights yet. By
            default it is said how to go on with trained ones.

    Raises:
        HFAdapterError: they are no plain pairs of LoRA on the released base, or a field has a wrong
            type; the message names the field.
    """
    try:
        config = msgspec.convert(fields, PeftLora)
    except (msgspec.ValidationError, OverflowError) as error:
        raise HFAdapterError(f"{path} is not what it should be: {error}.") from None
    if config.peft_type != "LORA":
        raise HFAdapterError(
            f"{path} has peft_type = {config.peft_type!r}, which canonical LoRA cannot express: only 'LORA' has "
            f"plain pairs A and B. {otherwise or _MERGE}."
        )
    for name, value in fields.items():
        if name not in HARMLESS_FIELDS and name not in PeftLora.__struct_fields__:
            _refuse_unless_off(name, value, path, otherwise)
    _refuse_changed_base(config.init_lora_weights, path, otherwise)
    for pattern in (*(config.rank_pattern or ()), *(config.alpha_pattern or ())):
        if not _LITERAL.fullmatch(_name_in(pattern)):
            raise HFAdapterError(
                f"{path} has the pattern {pattern!r}, a regular expression; only names of modules are understood "
                "there. Write the full name of each module instead."
            )
    return config


def _refuse_unless_off(name: str, value: object, path: Path, otherwise: str | None) -> None:
    if not value or value == _OFF_VALUES.get(name):
        return
    shown = f"{name} = {value!r}" if isinstance(value, str) else name
    if name in REFUSED_FIELDS:
        why, fix = REFUSED_FIELDS[name]
        raise HFAdapterError(f"{path} has {shown}, which canonical LoRA cannot express: {why}. {otherwise or fix}.")
    with_weights = "" if otherwise else f" If it does: {_MERGE[0].lower()}{_MERGE[1:]}."
    raise HFAdapterError(
        f"{path} has {shown}, a field that is not known here (PEFT up to 0.21.2 is) and that may change what A and B "
        f"mean. If it does not, take it out of the file.{with_weights}"
    )


def _refuse_changed_base(init: bool | str | None, path: Path, otherwise: str | None) -> None:
    if not isinstance(init, str) or init.lower() in HARMLESS_INITS:
        return
    said = f"{path} has init_lora_weights = {init!r}"
    for start, fix in REFUSED_INITS.items():
        if init.lower().startswith(start):
            how = "quantises the base weights" if start == "loftq" else "subtracts the first (alpha / r) B A from them"
            raise HFAdapterError(
                f"{said}: this initialisation changes the base weights under the adapter (it {how}), so A and B do "
                f"not belong to the released base. {otherwise or fix}."
            )
    raise HFAdapterError(
        f"{said}, an initialisation that is not known here and that may change the base weights under the adapter. "
        f"Known and harmless: true, false, {', '.join(map(repr, HARMLESS_INITS))}. If yours leaves the base as it is, "
        "write true."
    )


def _name_in(pattern: str) -> str:
    """Return the name in a pattern of PEFT that only anchors it or escapes its dots."""
    return pattern.removeprefix("^").removesuffix("$").replace(r"\.", ".")


def _lookup(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """Return the value of the first pattern that is `module` or its last segments, as in PEFT."""
    for pattern, value in (patterns or {}).items():
        name = _name_in(pattern)
        if module == name or (module.endswith(f".{name}") and not pattern.startswith("^")):
            return value
    return otherwise
