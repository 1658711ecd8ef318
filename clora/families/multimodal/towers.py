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
