"""The layers of a HybridModel, which has attention and MLP in layers of their own. Pure.

megatron-core writes a letter for each layer: `*-*-` is attention, MLP, attention, MLP. Letters that
alternate so are a GPTModel taken apart: its layer i became the layers 2i, the attention, and
2i + 1, the MLP. This module translates numbers and module paths between the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

STAGE, PREDICTION = "|", "/"
"""Marks in a written pattern: the end of a pipeline stage, and the beginning of the letters of one
prediction layer.
"""
MIXERS = frozenset("*+DG")
"""Letters of a layer's attention: of heads, latent, sparse, and a gated delta net."""
MLPS = frozenset("-E")
"""Letters of a layer's MLP: dense, and a mixture of experts."""

PREDICTION_LAYERS = ("transformer_layer", "mtp_model_layer")
"""Names of the layer inside a prediction layer, the newest last. megatron-core 0.17 renamed it."""

_IN_DECODER = re.compile(r"(?P<above>(?:language_model\.)?decoder\.layers)\.(?P<layer>\d+)(?P<below>\..+)?")
_IN_PREDICTION = re.compile(
    rf"(?P<above>(?:language_model\.)?mtp\.layers\.\d+)\.(?:{'|'.join(PREDICTION_LAYERS)})(?:\.layers\.(?P<layer>\d+))?"
    r"(?P<below>\..+)?"
)
_FINAL_NORM = re.compile(r"(?P<above>(?:language_model\.)?decoder)\.final_(?:layer)?norm(?P<below>\..+)?")
_OF_MLP = ("mlp", "mlp_bda", "pre_mlp_layernorm")
"""Children of a layer of GPTModel that stand in the MLP's layer of a HybridModel."""


@dataclass(frozen=True, slots=True)
class LayerPattern:
    """The letters of a HybridModel's layers."""

    letters: str
    """A letter for each layer of the decoder, in the whole model."""

    @classmethod
    def read(cls, written: str) -> LayerPattern:
        """Return the pattern that megatron-core's `hybrid_layer_pattern` writes: the letters of the
        decoder, without the marks of pipeline stages and prediction layers.
        """
        return cls(written.partition(PREDICTION)[0].replace(STAGE, ""))

    @property
    def is_of_pairs(self) -> bool:
        """True if the model is a GPTModel taken apart: attention and MLP alternate."""
        letters = self.letters
        return (
            bool(letters)
            and len(letters) % 2 == 0
            and MIXERS.issuperset(letters[::2])
            and MLPS.issuperset(letters[1::2])
        )

    @property
    def pairs(self) -> int:
        """Layers that the GPTModel has; meant for a pattern of pairs."""
        return len(self.letters) // 2


def pair_of(layer: int) -> tuple[int, int]:
    """Return the layers of a HybridModel that a layer of the GPTModel became."""
    return 2 * layer, 2 * layer + 1


def hybrid_layer(layer: int, below: str) -> int:
    """Return the layer of a HybridModel that has the module at path `below` in a layer of the
    GPTModel.
    """
    return pair_of(layer)[_half(below)]


def hybrid_path(path: str) -> str:
    """Return the path in a HybridModel of a module of the GPTModel that it was made from.

    `decoder.layers.3.mlp.linear_fc1` becomes `decoder.layers.7.mlp.linear_fc1`. The path has the
    layer's number in the whole model.
    """
    if found := _IN_PREDICTION.fullmatch(path):
        below = found["below"] or ""
        # A stack of layers is inside, where GPTModel has one layer.
        inside = f".layers.{_half(below)}" if below else ""
        return f"{found['above']}.{PREDICTION_LAYERS[-1]}{inside}{below}"
    if found := _FINAL_NORM.fullmatch(path):
        return f"{found['above']}.final_norm{found['below'] or ''}"
    found = _IN_DECODER.fullmatch(path)
    if not found:
        return path
    below = found["below"] or ""
    return f"{found['above']}.{hybrid_layer(int(found['layer']), below)}{below}"


def gpt_path(path: str) -> str | None:
    """Return the path in the GPTModel of a module of a HybridModel whose pattern is of pairs.

    None for a module that the GPTModel has at no path of its own, such as the MLP of an attention
    layer, which is empty.
    """
    if found := _IN_PREDICTION.fullmatch(path):
        layer, below = found["layer"], found["below"] or ""
        if layer is not None and (int(layer) > 1 or int(layer) != _half(below)):
            return None
        return f"{found['above']}.{PREDICTION_LAYERS[-1]}{below}"
    if found := _FINAL_NORM.fullmatch(path):
        return f"{found['above']}.final_layernorm{found['below'] or ''}"
    found = _IN_DECODER.fullmatch(path)
    if not found:
        return path
    layer, half = divmod(int(found["layer"]), 2)
    below = found["below"] or ""
    return None if half != _half(below) else f"{found['above']}.{layer}{below}"


def without_release(path: str) -> str:
    """Return `path` with the oldest name of each module that megatron-core has renamed, so that the
    paths of all releases compare equal.
    """
    if "mtp.layers." not in path:
        return path
    names = path.split(".")
    return ".".join(PREDICTION_LAYERS[0] if name in PREDICTION_LAYERS else name for name in names)


def _half(below: str) -> int:
    """Return 0 for a module of the attention's layer and 1 for one of the MLP's, by the path below
    its layer.
    """
    return int(below.lstrip(".").partition(".")[0] in _OF_MLP)
