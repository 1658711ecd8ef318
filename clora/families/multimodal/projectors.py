"""The number of parameters of what joins a vision tower to the text model.

Every function takes the configs of the whole model and of the tower, and the width of the text
model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.multimodal.towers import linear

if TYPE_CHECKING:
    from clora.families.base.hf_config import HFConfig


def gemma3(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return the projection and its norm."""
    del hf
    return tower.size("hidden_size") * (width + 1)


def llama4(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return the one linear behind the tower's adapter."""
    del hf
    return linear(tower.size("vision_output_dim"), width, bias=False)


def llava(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return two linears. The first reads the outputs of one layer of the tower, or of several."""
    hf = hf.with_defaults({"vision_feature_layer": -2, "multimodal_projector_bias": True})
    layers = hf.get("vision_feature_layer")
    inputs = tower.size("hidden_size") * (len(layers) if isinstance(layers, list) else 1)
    bias = hf.flag("multimodal_projector_bias")
    return linear(inputs, width, bias=bias) + linear(width, width, bias=bias)


def llava_next(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return LLaVA's two linears, and the vector that ends a line of patches."""
    return llava(hf, tower, width) + width


def vipllava(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return a norm and two linears. They read the outputs of several layers of the tower."""
    layers = hf.with_defaults({"vision_feature_layers": [-2, -5, -8, -11, 6]}).get("vision_feature_layers")
    inputs = tower.size("hidden_size") * (len(layers) if isinstance(layers, list) else 1)
    return 2 * inputs + linear(inputs, width) + linear(width, width)


def idefics3(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return the one linear that merges patches."""
    merged = tower.size("hidden_size") * hf.with_defaults({"scale_factor": 2}).size("scale_factor") ** 2
    return linear(merged, width, bias=False)


def internvl(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return a norm over merged patches, and two linears."""
    ratio = hf.with_defaults({"downsample_ratio": 0.5}).positive_number("downsample_ratio")
    merged = tower.size("hidden_size") * round(1 / ratio) ** 2
    return 2 * merged + linear(merged, width) + linear(width, width)


def qwen2_audio(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return one linear."""
    del hf
    return linear(tower.size("d_model"), width)


def voxtral(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return two linears. The first reads neighbouring outputs at once."""
    del hf
    return linear(tower.size("intermediate_size"), width, bias=False) + linear(width, width, bias=False)


def paligemma(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return one linear."""
    del width
    return linear(tower.size("hidden_size"), hf.with_defaults({"projection_dim": 2048}).size("projection_dim"))


def mistral3(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return a norm, the linear that merges patches, and two linears."""
    hf = hf.with_defaults({"spatial_merge_size": 2, "multimodal_projector_bias": False})
    seen, bias = tower.size("hidden_size"), hf.flag("multimodal_projector_bias")
    merger = linear(seen * hf.size("spatial_merge_size") ** 2, seen, bias=False)
    return seen + merger + linear(seen, width, bias=bias) + linear(width, width, bias=bias)


def inside_the_tower(hf: HFConfig, tower: HFConfig, width: int) -> int:
    """Return 0: the tower's own merger ends at the text model's width."""
    del hf, tower, width
    return 0
