"""The spec of a HybridModel's stack of layers, and its config, from those of the GPTModel that it
stands for: the same attention and the same MLP, each in a layer of its own.
"""

from __future__ import annotations

from copy import copy
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from megatron.core.package_info import __version__ as release

from clora_inspect.sources.errors import BuildError
from clora_inspect.sources.pipeline_split import SPLIT_FIELDS

if TYPE_CHECKING:
    from torch import nn

_HYBRID = "megatron.core.models.hybrid"

_LAYER_OF = {
    "*": "attention_layer",
    "+": "mla_layer",
    "D": "dsa_layer",
    "G": "gdn_layer",
    "-": "mlp_layer",
    "E": "moe_layer",
}
"""Letter of a layer -> the field of megatron-core's stack that has its spec."""
_ATTENTION = ("input_layernorm", "self_attention", "self_attn_bda")
_MLP = ("pre_mlp_layernorm", "mlp", "mlp_bda")
_PER_LAYER = ("no_rope_freq", "window_attn_skip_freq")
"""Fields of the config that attention reads by the number of its layer."""


def hybrid_model_class() -> type[nn.Module]:
    """Return megatron-core's HybridModel.

    Raises:
        BuildError: this release has none.
    """
    if find_spec(_HYBRID) is None:
        raise BuildError(
            f"megatron-core {release} has no HybridModel, which came with 0.18. Leave out --model-class hybrid, or "
            "install a newer megatron-core."
        )
    model_class: type[nn.Module] = import_module(f"{_HYBRID}.hybrid_model").HybridModel
    return model_class


def hybrid_stack(block: Any, letters: str) -> Any:
    """Return the spec of a stack with the layers of GPTModel's `block`.

    Args:
        block: the spec of all layers of the decoder.
        letters: two for each of its layers, the attention's and the MLP's.

    Raises:
        BuildError: this release's HybridModel has no such layer.
    """
    specs = import_module(f"{_HYBRID}.hybrid_layer_specs").hybrid_stack_spec
    submodules, stack = copy(specs.submodules), copy(specs)
    for number, letter in enumerate(letters):
        field = _LAYER_OF[letter]
        if field not in vars(submodules):
            raise BuildError(
                f"the HybridModel of megatron-core {release} has no {field}, of which this model has layers. Leave out "
                "--model-class hybrid, or install a newer megatron-core."
            )
        # Layers of one letter have equal specs, so the first of them is taken.
        if letters.index(letter) == number:
            own = getattr(specs.submodules, field)
            setattr(
                submodules, field, _half_of(block.layer_specs[number // 2], own, _MLP if number % 2 else _ATTENTION)
            )
    stack.submodules = submodules
    return stack


def _half_of(layer: Any, own: Any, names: tuple[str, ...]) -> Any:
    """Return the spec of a layer with the modules `names` of `layer`, in the class that `own`, the
    spec of megatron-core's own such layer, names.
    """
    half = copy(own)
    half.submodules = type(layer.submodules)(**{name: getattr(layer.submodules, name) for name in names})
    return half


def hybrid_config(config: Any) -> Any:
    """Return the config of the HybridModel that stands for the GPTModel of `config`."""
    # A copy and no `replace`: that would check and derive all fields again. The first values of its
    # weights are derived for as many residual branches as a HybridModel has layers.
    hybrid = copy(config)
    hybrid.num_layers, hybrid.is_hybrid_model = 2 * config.num_layers, True
    # The letters say which layers have experts, and where stages end.
    hybrid.moe_layer_freq = 1
    for field in SPLIT_FIELDS:
        setattr(hybrid, field, type(config).__dataclass_fields__[field].default)
    for field in _PER_LAYER:
        values = getattr(config, field)
        if isinstance(values, int) and field == "window_attn_skip_freq":
            values = [int((layer + 1) % values != 0) for layer in range(config.num_layers)]
        if values:
            setattr(hybrid, field, [value for value in values for _ in range(2)])
    return hybrid
