"""The names of Megatron-Bridge that a run may have as `_target_`. Nothing is imported by them."""

from __future__ import annotations

_BRIDGE = "megatron.bridge.models"

_PLAIN = {
    "gpt_provider": "GPTModelProvider GPTProvider126M GPTProvider5B GPTProvider7B GPTProvider20B GPTProvider40B "
    "GPTProvider175B",
    "mla_provider": "MLAModelProvider",
    "llama.llama_provider": "LlamaModelProvider Llama2ModelProvider7B Llama2ModelProvider13B Llama2ModelProvider70B "
    "Llama3ModelProvider Llama31ModelProvider Llama3ModelProvider8B Llama3ModelProvider70B Llama31ModelProvider8B "
    "Llama31ModelProvider70B Llama31ModelProvider405B Llama32ModelProvider1B Llama32ModelProvider3B "
    "CodeLlamaModelProvider7B CodeLlamaModelProvider13B CodeLlamaModelProvider34B CodeLlamaModelProvider70B",
    "llama_nemotron.llama_nemotron_provider": "Llama31NemotronNano8BProvider Llama31Nemotron70BProvider",
    "qwen.qwen_provider": "Qwen2ModelProvider Qwen2ModelProvider500M Qwen2ModelProvider1P5B Qwen2ModelProvider7B "
    "Qwen2ModelProvider72B Qwen25ModelProvider500M Qwen25ModelProvider1P5B Qwen25ModelProvider3B "
    "Qwen25ModelProvider7B Qwen25ModelProvider14B Qwen25ModelProvider32B Qwen25ModelProvider72B Qwen3ModelProvider "
    "Qwen3ModelProvider600M Qwen3ModelProvider1P7B Qwen3ModelProvider4B Qwen3ModelProvider8B Qwen3ModelProvider14B "
    "Qwen3ModelProvider32B Qwen3MoEModelProvider Qwen3MoEModelProvider30B_A3B Qwen3MoEModelProvider235B_A22B "
    "Qwen3NextModelProvider Qwen3NextModelProvider80B_A3B",
    "deepseek.deepseek_provider": "DeepSeekModelProvider DeepSeekV2ModelProvider DeepSeekV2LiteModelProvider "
    "DeepSeekV3ModelProvider MoonlightModelProvider16B",
    "kimi.kimi_provider": "KimiK2Provider",
    "glm.glm45_provider": "GLMMoEModelProvider GLM45ModelProvider355B GLM45AirModelProvider106B",
    "mistral.mistral_provider": "MistralModelProvider MistralSmall3ModelProvider24B",
    "nemotron.nemotron_provider": "NemotronModelProvider Nemotron3ModelProvider4B Nemotron3ModelProvider8B "
    "Nemotron3ModelProvider22B Nemotron4ModelProvider15B Nemotron4ModelProvider340B",
}

PLAIN_PROVIDERS = frozenset(f"{_BRIDGE}.{module}.{name}" for module, names in _PLAIN.items() for name in names.split())
"""Providers that only give values to fields of `GPTModelProvider` or `MLAModelProvider`."""

_OWN = {
    "gpt_oss.gpt_oss_provider": "GPTOSSProvider GPTOSSProvider120B GPTOSSProvider20B",
    "gemma.gemma_provider": "GemmaModelProvider GemmaModelProvider2B GemmaModelProvider7B "
    "CodeGemmaModelProvider2B CodeGemmaModelProvider7B",
    "gemma.gemma2_provider": "Gemma2ModelProvider Gemma2ModelProvider2B Gemma2ModelProvider9B Gemma2ModelProvider27B",
    "gemma.gemma3_provider": "Gemma3ModelProvider Gemma3ModelProvider1B Gemma3ModelProvider4B "
    "Gemma3ModelProvider12B Gemma3ModelProvider27B",
    "gemma_vl.gemma3_vl_provider": "Gemma3VLModelProvider",
    "glm_vl.glm_45v_provider": "GLM45VModelProvider",
    "llama.llama_provider": "Llama4ModelProvider Llama4Experts16ModelProvider Llama4Experts128ModelProvider",
    "llama_nemotron.llama_nemotron_provider": "Llama33NemotronSuper49BProvider "
    "Llama31NemotronUltra253BProvider LlamaNemotronHeterogeneousProvider",
    "mamba.mamba_provider": "MambaModelProvider",
    "ministral3.ministral3_provider": "Ministral3ModelProvider Ministral3ModelProvider3B "
    "Ministral3ModelProvider8B Ministral3ModelProvider14B",
    "nemotronh.nemotron_h_provider": "NemotronHModelProvider NemotronHModelProvider4B NemotronHModelProvider8B "
    "NemotronHModelProvider47B NemotronHModelProvider56B NemotronNanoModelProvider9Bv2 "
    "NemotronNanoModelProvider12Bv2 Nemotron3NanoProvider NemotronHModel4BProvider NemotronHModel8BProvider "
    "NemotronHModel47BProvider NemotronHModel56BProvider NemotronNano9Bv2Provider NemotronNano12Bv2Provider",
    "olmoe.olmoe_provider": "OlMoEModelProvider",
    "qwen_vl.qwen25_vl_provider": "Qwen25VLModelProvider",
    "qwen_vl.qwen3_vl_provider": "Qwen3VLModelProvider Qwen3VLMoEModelProvider",
    "t5_provider": "T5ModelProvider",
    "distillation_provider": "DistillationProvider",
    "ernie_vl.ernie45_vl_provider": "Ernie45VLModelProvider",
    "exaone.exaone45.exaone45_provider": "Exaone45ModelProvider",
    "exaone.exaone_moe.exaone_moe_provider": "ExaoneMoeModelProvider",
    "falcon_h1.falconh1_provider": "FalconH1ModelProvider",
    "gemma.gemma4_provider": "Gemma4ModelProvider Gemma4DenseProvider",
    "gemma_vl.gemma4_vl_provider": "Gemma4VLModelProvider Gemma4DenseVLProvider",
    "hybrid.hybrid_builder": "HybridModelConfig",
    "hybrid.hybrid_provider": "HybridModelProvider",
    "kimi.kimi_k3_provider": "KimiK3ModelProvider",
    "kimi_vl.kimi_k25_vl_provider": "KimiK25VLModelProvider",
    "mamba.mamba_builder": "MambaModelConfig",
    "megatron_mimo.llava_provider": "LlavaMegatronMIMOProvider",
    "megatron_mimo.megatron_mimo_provider": "MegatronMIMOProvider",
    "mimo.llava_provider": "LlavaMimoProvider",
    "mimo.mimo_provider": "MimoModelProvider",
    "mimo_v2_flash.mimo_v2_flash_provider": "MiMoV2FlashModelProvider",
    "minimax_m3.minimax_m3_bridge": "MiniMaxM3ModelProvider MiniMaxM3VLModelProvider",
    "nemotron_omni.nemotron_omni_provider": "NemotronVLModelProvider NemotronOmniModelProvider "
    "NemotronOmniLlavaModelProvider",
    "nemotron_vl.nemotron_vl_provider": "NemotronNano12Bv2VLModelProvider NemotronVLModelProvider",
    "qwen3_asr.qwen3_asr_provider": "Qwen3ASRModelProvider",
    "qwen_audio.qwen2_audio_provider": "Qwen2AudioModelProvider",
    "qwen_omni.qwen25_omni_provider": "Qwen25OmniModelProvider",
    "qwen_omni.qwen3_omni_provider": "Qwen3OmniModelProvider",
    "qwen_vl.qwen35_vl_provider": "Qwen35VLModelProvider Qwen35VLMoEModelProvider "
    "Qwen35TokenClassificationModelProvider",
    "sarvam.sarvam_provider": "SarvamMoEModelProvider SarvamMLAModelProvider",
    "stepfun.step35_provider": "Step35ModelProvider",
    "stepfun.step37_provider": "Step37ModelProvider",
}

OTHER_PROVIDERS = frozenset(f"{_BRIDGE}.{module}.{name}" for module, names in _OWN.items() for name in names.split())
"""Providers with layers or a model class of their own."""

NESTED = frozenset(
    {
        f"{_BRIDGE}.gpt.model_config.BridgeGPTModelConfig",
        f"{_BRIDGE}.gpt.gpt_builder.GPTModelConfig",
        "megatron.training.models.gpt.GPTModelConfig",
    }
)
"""Classes of newer releases that keep the fields of the transformer in a `transformer` of their
own.
"""

BUILDERS = frozenset({f"{_BRIDGE}.gpt.gpt_builder.GPTModelBuilder", "megatron.training.models.gpt.GPTModelBuilder"})
"""Builders that `_builder_` of such a class names."""

TRANSFORMERS = frozenset(
    f"{module}.transformer_config.{name}"
    for module in (_BRIDGE, "megatron.core.transformer")
    for name in ("TransformerConfig", "MLATransformerConfig")
)

SINGLE, BLOCK, VARIANT = "one spec for all layers", "a spec of a block", "a spec of a block with other attention"
"""Kinds of the layer spec that such a function returns."""

LAYER_SPECS = {
    f"{_BRIDGE}.gpt_provider.default_layer_spec": SINGLE,
    f"{_BRIDGE}.gpt_provider.transformer_engine_layer_spec": SINGLE,
    "megatron.core.models.gpt.gpt_layer_specs.get_gpt_decoder_block_spec": BLOCK,
    "megatron.core.models.gpt.experimental_attention_variant_module_specs."
    "get_transformer_block_with_experimental_attention_variant_spec": VARIANT,
}

VALUES = {
    **{f"torch.nn.functional.{name}": name for name in ("silu", "gelu", "relu")},
    # The functions of torch.nn.functional that are written in C++ are of this module.
    **{f"torch._C._nn.{name}": name for name in ("silu", "gelu", "relu")},
    **{f"megatron.core.activations.{name}": name for name in ("fast_gelu", "squared_relu", "quick_gelu")},
    "megatron.bridge.models.nemotron.nemotron_bridge.squared_relu": "squared_relu",
    "megatron.bridge.models.nemotron.nemotron_provider.squared_relu": "squared_relu",
    "megatron.core.fusions.fused_bias_geglu.quick_gelu": "quick_gelu",
    "torch.float32": "float32",
    "torch.bfloat16": "bfloat16",
    "torch.float16": "float16",
}
"""`_target_` of a function or a dtype -> its name here."""
