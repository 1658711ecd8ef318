"""Models of several modalities: where their config.json describes the text model, which is built,
and how many parameters the rest has, which is not. Pure: no torch, no transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clora.families import families
from clora.families.base.hf_config import HFConfig
from clora.families.multimodal import projectors, towers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Multimodal:
    """A model_type whose text model is one of `clora.families`."""

    text_type: str
    """`model_type` of the text model where its own config does not say it."""
    tower_type: str | None = None
    """`model_type` of the tower where its own config does not say it, a key of
    `towers.PARAMETERS`; None if the other parts are not counted.
    """
    tower_field: str = "vision_config"
    """Where in the file the tower's config is. The word before `_config` names it in messages."""
    projector: Callable[[HFConfig, HFConfig, int], int] = projectors.inside_the_tower
    """Returns the parameters of what joins the tower to the text model, from the configs of the
    whole model and of the tower, and the width of the text model.
    """
    text_field: tuple[str, ...] = ("text_config",)
    """Where in the file the text model's config is."""
    architectures: tuple[str, ...] = ()
    """Names of the class that builds the whole model, where they do not say what they end in."""
    is_flat: bool = False
    """True if released files have the text model's fields beside `vision_config`."""


MULTIMODAL = {
    "gemma3": Multimodal(text_type="gemma3_text", tower_type="siglip_vision_model", projector=projectors.gemma3),
    "llama4": Multimodal(text_type="llama4_text", tower_type="llama4_vision_model", projector=projectors.llama4),
    "llava": Multimodal(text_type="llama", tower_type="clip_vision_model", projector=projectors.llava),
    "llava_next": Multimodal(text_type="llama", tower_type="clip_vision_model", projector=projectors.llava_next),
    "llava_next_video": Multimodal(text_type="llama", tower_type="clip_vision_model", projector=projectors.llava_next),
    "llava_onevision": Multimodal(text_type="qwen2", tower_type="siglip_vision_model", projector=projectors.llava_next),
    "paligemma": Multimodal(text_type="gemma", tower_type="siglip_vision_model", projector=projectors.paligemma),
    "vipllava": Multimodal(text_type="llama", tower_type="clip_vision_model", projector=projectors.vipllava),
    "internvl": Multimodal(text_type="qwen2", tower_type="internvl_vision", projector=projectors.internvl),
    # InternVL's own code has other names than transformers'.
    "internvl_chat": Multimodal(
        text_type="qwen2",
        tower_type="intern_vit_6b",
        projector=projectors.internvl,
        text_field=("llm_config",),
        architectures=("InternVLChatModel",),
    ),
    "idefics2": Multimodal(text_type="mistral"),
    "idefics3": Multimodal(text_type="llama", tower_type="idefics3_vision", projector=projectors.idefics3),
    "smolvlm": Multimodal(text_type="llama", tower_type="smolvlm_vision", projector=projectors.idefics3),
    "got_ocr2": Multimodal(text_type="qwen2"),
    "janus": Multimodal(text_type="llama"),
    "deepseek_vl": Multimodal(text_type="llama"),
    "deepseek_vl_hybrid": Multimodal(text_type="llama"),
    "perception_lm": Multimodal(text_type="llama"),
    "ovis2": Multimodal(text_type="qwen2"),
    "voxtral": Multimodal(
        text_type="llama", tower_type="voxtral_encoder", projector=projectors.voxtral, tower_field="audio_config"
    ),
    "granite_speech": Multimodal(text_type="granite"),
    "qwen2_audio": Multimodal(
        text_type="qwen2",
        tower_type="qwen2_audio_encoder",
        projector=projectors.qwen2_audio,
        tower_field="audio_config",
    ),
    "qwen2_5_omni": Multimodal(
        text_type="qwen2_5_omni_text",
        text_field=("thinker_config", "text_config"),
        architectures=("Qwen2_5OmniModel",),
    ),
    "qwen3_omni_moe": Multimodal(text_type="qwen3_omni_moe_text", text_field=("thinker_config", "text_config")),
    "glm4v": Multimodal(text_type="glm4v_text", tower_type="glm4v"),
    "glm4v_moe": Multimodal(text_type="glm4v_moe_text", tower_type="glm4v_moe"),
    "kimi_vl": Multimodal(text_type="deepseek_v3"),
    "kimi_k25": Multimodal(text_type="kimi_k2"),
    "mistral3": Multimodal(text_type="mistral", tower_type="pixtral", projector=projectors.mistral3),
    "qwen2_vl": Multimodal(
        text_type="qwen2_vl_text", tower_type="qwen2_vl", projector=projectors.inside_the_tower, is_flat=True
    ),
    "qwen2_5_vl": Multimodal(
        text_type="qwen2_5_vl_text", tower_type="qwen2_5_vl", projector=projectors.inside_the_tower, is_flat=True
    ),
    "qwen3_vl": Multimodal(text_type="qwen3_vl_text", tower_type="qwen3_vl", projector=projectors.inside_the_tower),
    "qwen3_vl_moe": Multimodal(
        text_type="qwen3_vl_moe_text", tower_type="qwen3_vl_moe", projector=projectors.inside_the_tower
    ),
    "qwen3_5": Multimodal(text_type="qwen3_5_text", tower_type="qwen3_5", projector=projectors.inside_the_tower),
    "qwen3_5_moe": Multimodal(
        text_type="qwen3_5_moe_text", tower_type="qwen3_5_moe", projector=projectors.inside_the_tower
    ),
}


_TEXT_FIELDS = ("text_config", "llm_config", "language_config")
"""Names that files have for the config of the text model."""


def text_field_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return where in the object of a config.json the config of its text model is."""
    model_type = config.get("model_type")
    known = MULTIMODAL.get(model_type) if isinstance(model_type, str) else None
    if known is not None:
        return known.text_field
    return next(((field,) for field in _TEXT_FIELDS if isinstance(config.get(field), dict)), _TEXT_FIELDS[:1])


def text_values(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config of the text model in a model of several modalities; None if `config` is of
    a model that stands alone, or of one whose text model is not known here.

    Args:
        config: the object of a config.json.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type in families():
        return None
    known = MULTIMODAL.get(model_type)
    text: Any = config
    for field in text_field_of(config):
        text = text.get(field) if isinstance(text, dict) else None
    if known is not None and text is None:
        # Without it transformers builds the text model of its defaults.
        return {**(config if known.is_flat else {}), "model_type": known.text_type}
    if not isinstance(text, dict):
        return None
    own = text.get("model_type", known.text_type if known else None)
    # Qwen2-VL's files say the family of the whole model there too.
    own = known.text_type if known and own == model_type else own
    return {**text, "model_type": own} if isinstance(own, str) and own in families() else None


def what_is_left_out(hf: HFConfig, text_type: str, width: int) -> str:
    """Return full sentences that name the parts of the model which are not built, with their
    parameters where they are known.

    Args:
        hf: the config of the whole model.
        text_type: `model_type` of its text model.
        width: `hidden_size` of its text model.

    Raises:
        ModelError: a field of a part has a value that it cannot have.
    """
    model_type = hf.text("model_type")
    known = MULTIMODAL.get(model_type)
    text_field = text_field_of(hf.values)
    parts = [field for field in hf.values if field.endswith("_config") and isinstance(hf.get(field), dict)]
    # Beside a text model that is nested deeper there are other parts in the same object.
    parts += [f"{text_field[0]}.{field}" for field in (hf.get(text_field[0]) or () if len(text_field) > 1 else ())]
    not_built = [
        part for part in parts if part not in {text_field[0], ".".join(text_field)} and part.endswith("_config")
    ]
    others = ", ".join(not_built) or "its other parts"
    built = f"Of this {model_type} model, the text model ({text_type}) is built."
    field = known.tower_field if known else "vision_config"
    tower = hf.table(field) or HFConfig(origin=f"{hf.origin}: {field}", values={})
    kind = tower.get("model_type") or (known.tower_type if known else None)
    if known is None or not isinstance(kind, str) or kind not in towers.PARAMETERS:
        return f"{built} What {others} describes is left out."
    defaults, count = towers.PARAMETERS[kind]
    tower = tower.with_defaults(defaults)
    left_out = count(tower) + known.projector(hf, tower, width)
    tower_name = field.removesuffix("_config")
    return f"{built} The {tower_name} tower and what joins it to the text model are left out: {left_out:,} parameters."
