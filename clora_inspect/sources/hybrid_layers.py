"""The layers of a HybridModel that stands for a GPTModel: a letter for the attention of each layer
and one for its MLP, and the ends of the pipeline's stages. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import ModelError
from clora.families.base.model_kind import ModelKind
from clora.layer_pattern import PREDICTION, STAGE
from clora_inspect.sources.pipeline_split import stage_counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition

HEADS, LATENT, SPARSE_LATENT, DELTA_NET = "*", "+", "D", "G"
DENSE, EXPERTS = "-", "E"

_ONLY_OF_GPT = {
    ModelKind.GEMMA2: "is a GPTModel with norms and scales that HybridModel does not have",
    ModelKind.MAMBA: "is a hybrid model of Mamba layers already",
    ModelKind.USER_FUNCTION: "is a function, which decides the class of its model itself",
    ModelKind.BRIDGE: "is built by Megatron-Bridge, which decides the class of the model itself",
}
"""Kinds of models that are no plain GPTModel -> why there is none of class HybridModel."""


def as_hybrid(definition: ModelDefinition, name: str) -> ModelDefinition:
    """Return the same model, built as a HybridModel. It keeps its fields: `num_layers` counts the
    layers of the GPTModel.

    Raises:
        ModelError: there is no HybridModel for it.
    """
    if definition.kind in _ONLY_OF_GPT:
        raise ModelError(f"{definition.name} {_ONLY_OF_GPT[definition.kind]}. Leave out --model-class hybrid.")
    note = (
        "Built as a HybridModel: layer i of the GPTModel is layers 2i, the attention, and 2i + 1, the MLP. "
        "Layer numbers in patterns are of these."
    )
    return msgspec.structs.replace(definition, name=name, kind=ModelKind.HYBRID, notes=(*definition.notes, note))


def refuse_scales(name: str, model: Mapping[str, Any], factors: Iterable[str]) -> None:
    """Refuse constants that only the model classes read that are built on GPTModel.

    Raises:
        ModelError: the model has one of `factors`.
    """
    own = [f"{factor} = {model[factor]:g}" for factor in factors if model.get(factor) is not None]
    if own:
        raise ModelError(
            f"{name} has {', '.join(own)}, which HybridModel does not know. Leave out --model-class hybrid."
        )


def written_pattern(config: Mapping[str, Any], split: Mapping[str, Any], layout: Layout) -> str:
    """Return megatron-core's `hybrid_layer_pattern`, with marks of stages and prediction layers.

    Args:
        config: fields of the GPTModel's `TransformerConfig`.
        split: the fields that split its pipeline.
        layout: the sizes of the axes, of which `pp` and `vpp` are read.
    """
    pairs = [mixer + mlp for mixer, mlp in zip(_mixers(config), _mlps(config), strict=True)]
    stages, first = [], 0
    for count in stage_counts(int(config["num_layers"]), split, layout):
        stages.append("".join(pairs[first : first + count]))
        first += count
    # Prediction layers are built like the last layer of the decoder.
    depths = int(config.get("mtp_num_layers") or 0)
    return STAGE.join(stages) + f"{PREDICTION}{pairs[-1]}" * depths


def _mixers(config: Mapping[str, Any]) -> list[str]:
    layers, variant = int(config["num_layers"]), config.get("experimental_attention_variant")
    full = SPARSE_LATENT if variant == "dsa" else LATENT if config.get("multi_latent_attention") else HEADS
    if variant != "gated_delta_net":
        return [full] * layers
    frequency = config.get("linear_attention_freq")
    is_linear = (
        frequency
        if isinstance(frequency, list)
        else [frequency is None or bool((layer + 1) % frequency) for layer in range(layers)]
    )
    return [DELTA_NET if linear else full for linear in is_linear]


def _mlps(config: Mapping[str, Any]) -> list[str]:
    layers, frequency = int(config["num_layers"]), config.get("moe_layer_freq", 1)
    if not config.get("num_moe_experts"):
        return [DENSE] * layers
    has_experts = frequency if isinstance(frequency, list) else [layer % frequency == 0 for layer in range(layers)]
    return [EXPERTS if experts else DENSE for experts in has_experts]
