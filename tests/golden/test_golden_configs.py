"""A Hugging Face config becomes what the reference makes of it for megatron-core, field by field;
each exception is listed.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import golden_files
import golden_models
import pytest

from clora_inspect.job.layout import Layout
from clora_inspect.virtual import virtual_megatron

CONFIGS = golden_files.configs()
MISSING = "no such field"

NOT_OF_THE_MODEL = {
    "make_vocab_size_divisible_by": "the provider's padding of the vocabulary, which should_pad_vocab switches off",
    "should_pad_vocab": "the vocabulary is the config's own",
    "max_position_embeddings": "the provider's own name for the context; seq_length is compared",
    "mtp_enabled": "the provider's switch; mtp_num_layers is the field of megatron-core",
    "query_pre_attn_scalar": "softmax_scale here, compared below",
    "restore_modelopt_state": "how the provider loads",
    "rope_scaling_factor": "counts where rope_scaling is on, which it is in none of them",
    "rotary_scaling_factor": "a field of MLATransformerConfig; the provider says null in models that have none",
    "tp_comm_overlap_cfg": "a setting of the training run",
    "transformer_layer_spec": "the code that builds, held by the placements",
    "use_arbitrary_attention_mask": "a setting of the provider",
    "use_transformer_engine_full_layer_spec": "a setting of the provider",
    "use_transformer_engine_op_fuser": "a setting of the provider",
}
"""Fields of the reference's provider that neither megatron-core's config nor its model has in our
definition.
"""

KERNELS = {
    "apply_rope_fusion",
    "attention_softmax_in_fp32",
    "bias_activation_fusion",
    "bias_dropout_fusion",
    "cross_entropy_fusion_impl",
    "cross_entropy_loss_fusion",
    "deallocate_pipeline_outputs",
    "gradient_accumulation_fusion",
    "masked_softmax_fusion",
    "moe_permute_fusion",
    "moe_shared_expert_overlap",
    "persist_layer_norm",
}
"""How a GPU computes the same model: fusions, overlap and precision inside kernels. They change no
module, and need a GPU.
"""

OURS: dict[tuple[str, str], tuple[Any, Any, str]] = {
    **{
        (family, "moe_aux_loss_coeff"): (1e-4, 1e-3, "the config's aux_loss_alpha says 0.001")
        for family in ("deepseekv3-64L", "deepseekv3-default")
    },
    ("nemotron-default", "activation_func"): (
        "megatron.bridge.models.nemotron.nemotron_bridge.squared_relu",
        "megatron.core.activations.squared_relu",
        "the same function, in megatron-core",
    ),
    ("qwen3next-default", "moe_router_dtype"): ("fp32", None, "the config does not say; a setting of the run"),
    ("qwen3next-default", "moe_router_load_balancing_type"): (
        "global_aux_loss",
        "aux_loss",
        "the config's router_aux_loss_coef is a loss of one batch, as in the other Qwen families",
    ),
    # Hugging Face masks a key that is `sliding_window` or more positions back: the window counts
    # the token itself. Transformer Engine's window_size is the number of keys to the left of the
    # token, so one less.
    ("gemma2-default", "window_size"): ([4096, 0], [4095, 0], "the window counts the token itself"),
    ("gptoss-default", "window_size"): ([128, 0], [127, 0], "the window counts the token itself"),
    ("gptoss-default", "window_attn_skip_freq"): (2, [1, 0] * 18, "the same layers, one by one as in the config"),
}
"""(family, field) -> the reference's value, ours, why."""


@pytest.mark.parametrize("family", CONFIGS)
def test_every_field_is_the_references_or_listed(family: str) -> None:
    theirs = CONFIGS[family]["provider_fields"]
    ours = fields_of(family, theirs)
    different = {
        name for name in theirs if ours[name] != theirs[name] and name not in NOT_OF_THE_MODEL | dict.fromkeys(KERNELS)
    }
    listed = {
        field: (value, our) for (listed_family, field), (value, our, _) in OURS.items() if listed_family == family
    }
    assert {name: (theirs[name], ours[name]) for name in different} == listed


def test_what_is_excepted_is_needed() -> None:
    seen = {name for config in CONFIGS.values() for name in config["provider_fields"]}
    assert NOT_OF_THE_MODEL.keys() <= seen
    for name in KERNELS:
        values = [
            (fields_of(family, config["provider_fields"]), config["provider_fields"])
            for family, config in CONFIGS.items()
        ]
        assert any(name in theirs and theirs[name] != ours[name] for ours, theirs in values), name


def test_a_listed_window_is_on_the_references_layers() -> None:
    with virtual_megatron("meta"):
        from megatron.core.transformer.utils import is_layer_window_attention

        theirs = [is_layer_window_attention((127, 0), 2, layer) for layer in range(1, 37)]
        ours = [is_layer_window_attention((127, 0), [1, 0] * 18, layer) for layer in range(1, 37)]
    assert ours == theirs
    sliding = [kind == "sliding_attention" for kind in CONFIGS["gptoss-default"]["hf_config"]["layer_types"]]
    assert ours == sliding


def test_gemma_2_scales_its_scores_by_the_configs_scalar() -> None:
    scalar = CONFIGS["gemma2-default"]["provider_fields"]["query_pre_attn_scalar"]
    assert (
        golden_models.definition_of("gemma2-default", CONFIGS["gemma2-default"]).config["softmax_scale"] == scalar**-0.5
    )


def fields_of(family: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Our values of the fields in `wanted`, in the words of the golden files: from the built
    config, else the model's arguments.
    """
    definition = golden_models.definition_of(family, CONFIGS[family])
    with virtual_megatron("meta") as device:
        from megatron.core.models.gpt import GPTModel

        from clora_inspect.sources.config import make_config

        config = make_config(definition, Layout(), device)
        defaults = {
            name: argument.default for name, argument in inspect.signature(GPTModel.__init__).parameters.items()
        }
    declared = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    undeclared = {name: getattr(config, name) for name in definition.model if hasattr(config, name)}
    model = defaults | definition.model | {"seq_length": definition.model["max_sequence_length"]}
    # YaRN's and the soft caps' numbers are attributes of the config that it does not declare.
    known = model | undeclared | declared
    return {name: _plain(known.get(name, MISSING)) for name in wanted}


def _plain(value: Any) -> Any:
    if callable(value):
        return f"{value.__module__}.{value.__name__}"
    if isinstance(value, tuple):
        return list(value)
    return str(value) if type(value).__module__ == "torch" else value
