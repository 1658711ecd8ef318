"""The number of parameters of a vision tower, from its config. Sizes are those of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora.families.base.hf_config import HFConfig


def linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Return the parameters of a linear."""
    return inputs * outputs + (outputs if bias else 0)


def _norm(width: int) -> int:
    """Return the parameters of a LayerNorm: weight and bias."""
    return 2 * width


def _block(width: int, inner: int) -> int:
    """Return the parameters of a block with two LayerNorms, biases, and an MLP without a gate."""
    attention = 4 * linear(width, width)
    return attention + linear(width, inner) + linear(inner, width) + 2 * _norm(width)


def _patches(tower: HFConfig) -> int:
    return int((tower.size("image_size") // tower.size("patch_size")) ** 2)


def _clip(tower: HFConfig) -> int:
    width, pixels = tower.size("hidden_size"), tower.size("num_channels") * tower.size("patch_size") ** 2
    # A class token comes before the patches, a norm before the blocks, and one behind them.
    embeddings = width + linear(pixels, width, bias=False) + (_patches(tower) + 1) * width
    blocks = tower.size("num_hidden_layers") * _block(width, tower.size("intermediate_size"))
    return embeddings + blocks + 2 * _norm(width)


def _siglip(tower: HFConfig) -> int:
    width, inner = tower.size("hidden_size"), tower.size("intermediate_size")
    pixels = tower.size("num_channels") * tower.size("patch_size") ** 2
    embeddings = linear(pixels, width) + _patches(tower) * width
    blocks = tower.size("num_hidden_layers") * _block(width, inner)
    # The head pools by attention from one learned query.
    head = width + 4 * linear(width, width) + _norm(width) + linear(width, inner) + linear(inner, width)
    return embeddings + blocks + _norm(width) + (head if tower.flag("vision_use_head") else 0)


def _pixtral(tower: HFConfig) -> int:
    width, inner = tower.size("hidden_size"), tower.size("intermediate_size")
    pixels = tower.size("num_channels") * tower.size("patch_size") ** 2
    # No biases, a gated MLP, and norms that have a weight only.
    block = 4 * width * width + 3 * width * inner + 2 * width
    return linear(pixels, width, bias=False) + width + tower.size("num_hidden_layers") * block


def _llama4(tower: HFConfig) -> int:
    width, inner = tower.size("hidden_size"), tower.size("intermediate_size")
    pixels = tower.size("num_channels") * tower.size("patch_size") ** 2
    embeddings = width + linear(pixels, width, bias=False) + (_patches(tower) + 1) * width
    blocks = tower.size("num_hidden_layers") * _block(width, inner)
    middle, outputs = tower.size("projector_input_dim"), tower.size("projector_output_dim")
    adapter = linear(inner, middle, bias=False) + linear(outputs, outputs, bias=False)
    return embeddings + blocks + 2 * _norm(width) + adapter


def _idefics3(tower: HFConfig) -> int:
    width, pixels = tower.size("hidden_size"), tower.size("num_channels") * tower.size("patch_size") ** 2
    blocks = tower.size("num_hidden_layers") * _block(width, tower.size("intermediate_size"))
    return linear(pixels, width) + _patches(tower) * width + blocks + _norm(width)


def _glm4v(tower: HFConfig) -> int:
    width, outputs, inner = tower.size("hidden_size"), tower.size("out_hidden_size"), tower.size("intermediate_size")
    attention = linear(width, 3 * width, bias=tower.flag("attention_bias")) + width * width
    # Norms have a weight only. The MLPs of the blocks are as wide as the text model.
    blocks = tower.size("depth") * (attention + 3 * width * outputs + 2 * width)
    embeddings = linear(_qwen_pixels(tower), width) + _patches(tower) * width + 2 * width
    downsampling = linear(width * tower.size("spatial_merge_size") ** 2, outputs)
    return embeddings + blocks + downsampling + outputs * outputs + _norm(outputs) + 3 * outputs * inner


def _internvl(tower: HFConfig) -> int:
    width, inner = tower.size("hidden_size"), tower.size("intermediate_size")
    image, patch = _side(tower, "image_size"), _side(tower, "patch_size")
    embeddings = width + linear(tower.size("num_channels") * patch**2, width) + ((image // patch) ** 2 + 1) * width
    norm = width if tower.text("norm_type") == "rms_norm" else _norm(width)
    attention = 3 * linear(width, width, bias=tower.flag("attention_bias")) + linear(width, width)
    attention += 2 * width if tower.flag("use_qk_norm") else 0
    # Two vectors scale what a block adds.
    block = attention + linear(width, inner) + linear(inner, width) + 2 * norm + 2 * width
    return embeddings + tower.size("num_hidden_layers") * block


def _side(tower: HFConfig, field: str) -> int:
    """Return the side of a square. transformers writes both sides of one."""
    both = isinstance(tower.get(field), list) and len(tower.sizes(field)) > 0
    return tower.sizes(field)[0] if both else tower.size(field)


def _intern_vit(tower: HFConfig) -> int:
    # InternVL's own code has other names for the fields of transformers' class.
    own_names = {"attention_bias": tower.flag("qkv_bias"), "use_qk_norm": tower.flag("qk_normalization")}
    return _internvl(tower.with_defaults({**_INTERN_VIT, **own_names}))


def _whisper(tower: HFConfig, layers: int, width: int, inner: int) -> int:
    convolutions = linear(3 * tower.size("num_mel_bins"), width) + linear(3 * width, width)
    # Keys have no bias.
    block = _block(width, inner) - width
    return convolutions + tower.size("max_source_positions") * width + layers * block + _norm(width)


def _qwen2_audio(tower: HFConfig) -> int:
    return _whisper(tower, tower.size("encoder_layers"), tower.size("d_model"), tower.size("encoder_ffn_dim"))


def _voxtral(tower: HFConfig) -> int:
    return _whisper(tower, tower.size("num_hidden_layers"), tower.size("hidden_size"), tower.size("intermediate_size"))


def _merger(merged: int, outputs: int, norm: int) -> int:
    """Return the parameters of a norm and the MLP that joins neighbouring patches to one vector."""
    return norm + linear(merged, merged) + linear(merged, outputs)


def _qwen2_vl(tower: HFConfig) -> int:
    width = tower.size("embed_dim")
    merged = width * tower.size("spatial_merge_size") ** 2
    block = _block(width, int(width * tower.number("mlp_ratio")))
    merger = _merger(merged, tower.size("hidden_size"), _norm(width))
    return _qwen_pixels(tower) * width + tower.size("depth") * block + merger


def _qwen2_5_vl(tower: HFConfig) -> int:
    width, inner = tower.size("hidden_size"), tower.size("intermediate_size")
    merged = width * tower.size("spatial_merge_size") ** 2
    # A gated MLP with biases, and norms that have a weight only.
    block = 4 * linear(width, width) + 2 * linear(width, inner) + linear(inner, width) + 2 * width
    merger = _merger(merged, tower.size("out_hidden_size"), width)
    return _qwen_pixels(tower) * width + tower.size("depth") * block + merger


def _qwen3_vl(tower: HFConfig) -> int:
    width, outputs = tower.size("hidden_size"), tower.size("out_hidden_size")
    merged = width * tower.size("spatial_merge_size") ** 2
    embeddings = linear(_qwen_pixels(tower), width) + tower.size("num_position_embeddings") * width
    blocks = tower.size("depth") * _block(width, tower.size("intermediate_size"))
    # The outputs of some blocks join the text model too, each through a merger of its own.
    inner_mergers = len(tower.sizes("deepstack_visual_indexes")) * _merger(merged, outputs, _norm(merged))
    return embeddings + blocks + _merger(merged, outputs, _norm(width)) + inner_mergers


def _qwen_pixels(tower: HFConfig) -> int:
    """Return the numbers in a patch, which covers several frames."""
    return int(tower.size("in_channels") * tower.size("temporal_patch_size") * tower.size("patch_size") ** 2)


_VIT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "image_size": 224,
    "num_channels": 3,
}
_QWEN = {"depth": 32, "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
_QWEN3 = {
    **_QWEN,
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "out_hidden_size": 3584,
    "patch_size": 16,
    "num_position_embeddings": 2304,
}

_DEEPSTACK = {**_QWEN3, "deepstack_visual_indexes": [8, 16, 24]}
_NO_DEEPSTACK = {**_QWEN3, "deepstack_visual_indexes": []}

_GLM4V = {
    **_QWEN,
    "depth": 24,
    "hidden_size": 1536,
    "image_size": 336,
    "out_hidden_size": 4096,
    "intermediate_size": 13696,
    "attention_bias": False,
}
_INTERNVL = {
    **_VIT,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "image_size": 448,
    "patch_size": 14,
    "norm_type": "layer_norm",
    "attention_bias": False,
    "use_qk_norm": False,
}
_INTERN_VIT = {
    **{name: value for name, value in _INTERNVL.items() if name not in ("attention_bias", "use_qk_norm")},
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 48,
    "image_size": 224,
    "norm_type": "rms_norm",
    "qkv_bias": False,
    "qk_normalization": True,
}
_WHISPER = {"num_mel_bins": 128, "max_source_positions": 1500}
_IDEFICS3 = {**_VIT, "hidden_size": 1152, "patch_size": 32}

PARAMETERS: dict[str, tuple[dict[str, Any], Callable[[HFConfig], int]]] = {
    "clip_vision_model": ({**_VIT, "patch_size": 32}, _clip),
    "siglip_vision_model": ({**_VIT, "patch_size": 16, "vision_use_head": True}, _siglip),
    "pixtral": (
        {**_VIT, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 16},
        _pixtral,
    ),
    "llama4_vision_model": (
        {
            **_VIT,
            "num_hidden_layers": 34,
            "intermediate_size": 5632,
            "image_size": 448,
            "patch_size": 14,
            "vision_output_dim": 7680,
            "projector_input_dim": 4096,
            "projector_output_dim": 4096,
        },
        _llama4,
    ),
    "idefics3_vision": (_IDEFICS3, _idefics3),
    "smolvlm_vision": (_IDEFICS3, _idefics3),
    "glm4v": (_GLM4V, _glm4v),
    "glm4v_moe": (_GLM4V, _glm4v),
    "internvl_vision": (_INTERNVL, _internvl),
    "intern_vit_6b": (_INTERN_VIT, _intern_vit),
    "qwen2_audio_encoder": (
        {**_WHISPER, "d_model": 1280, "encoder_layers": 32, "encoder_ffn_dim": 5120},
        _qwen2_audio,
    ),
    "voxtral_encoder": (
        {**_WHISPER, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32},
        _voxtral,
    ),
    "qwen2_vl": ({**_QWEN, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4}, _qwen2_vl),
    "qwen2_5_vl": (
        {**_QWEN, "hidden_size": 3584, "intermediate_size": 3420, "out_hidden_size": 3584},
        _qwen2_5_vl,
    ),
    "qwen3_vl": (_DEEPSTACK, _qwen3_vl),
    "qwen3_vl_moe": (_DEEPSTACK, _qwen3_vl),
    "qwen3_5": (_NO_DEEPSTACK, _qwen3_vl),
    "qwen3_5_moe": (_NO_DEEPSTACK, _qwen3_vl),
}
"""`model_type` of the tower -> the defaults of its config, and its number of parameters."""
