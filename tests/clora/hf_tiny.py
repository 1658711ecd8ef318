"""Build tiny Hugging Face models with random weights, and the same models in megatron-core.

The weights are packed as megatron-core packs them by rules written here, which share nothing with
those of clora. Needs `transformers`, and no network.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from llama_names import as_llama

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VOCABULARY = 64
DENSE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
# Some families have special tokens beyond this vocabulary.
SPECIAL = {**DENSE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {**SPECIAL, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MLA = {
    **DENSE,
    "head_dim": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 2,
    "topk_group": 1,
}
GRANITE_MOE = {
    **SPECIAL,
    "intermediate_size": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", DENSE),
    "llama-bias": ("Llama", {**DENSE, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {**DENSE, "sliding_window": 3}),
    "qwen2": ("Qwen2", {**DENSE, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**DENSE, "head_dim": 16}),
    "nemotron": ("Nemotron", DENSE),
    "gemma2": ("Gemma2", {**DENSE, "sliding_window": 3, "tie_word_embeddings": True, "query_pre_attn_scalar": 16}),
    "gemma": ("Gemma", {**DENSE, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "gemma3": (
        "Gemma3Text",
        # One RoPE base for all layers, which is what megatron-core has.
        {**DENSE, "sliding_window": 3, "sliding_window_pattern": 2, "rope_local_base_freq": 1e4, "rope_theta": 1e4},
    ),
    "phi3": ("Phi3", {**SPECIAL, "partial_rotary_factor": 0.5}),
    "olmo2": ("Olmo2", SPECIAL),
    "granite": (
        "Granite",
        {
            **SPECIAL,
            "attention_bias": True,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
        },
    ),
    "smollm3": ("SmolLM3", {**SPECIAL, "num_hidden_layers": 3, "no_rope_layer_interval": 2}),
    "seed_oss": ("SeedOss", {**SPECIAL, "head_dim": 16, "attention_out_bias": True}),
    "starcoder2": ("Starcoder2", {**SPECIAL, "sliding_window": 3}),
    "glm": ("Glm", SPECIAL),
    "glm4": ("Glm4", SPECIAL),
    "exaone4": ("Exaone4", {**SPECIAL, "num_hidden_layers": 3, "sliding_window": 3, "sliding_window_pattern": 2}),
    "ernie4_5": ("Ernie4_5", {**SPECIAL, "use_bias": True}),
    "mixtral": ("Mixtral", {**DENSE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            **DENSE,
            "num_hidden_layers": 3,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
        },
    ),
    "qwen2_moe": ("Qwen2Moe", {**EXPERTS, "norm_topk_prob": False, "shared_expert_intermediate_size": 16}),
    "olmoe": ("Olmoe", {**EXPERTS, "intermediate_size": 16}),
    "glm4_moe": ("Glm4Moe", {**EXPERTS, "n_routed_experts": 4, "use_qk_norm": True, "attention_bias": True}),
    "ernie4_5_moe": (
        "Ernie4_5_Moe",
        {**EXPERTS, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_start_index": 1},
    ),
    "llama4": (
        "Llama4Text",
        {
            **EXPERTS,
            "num_experts_per_tok": 1,
            "num_local_experts": 4,
            "intermediate_size_mlp": 48,
            "interleave_moe_layer_step": 2,
            # Layers without rotary embeddings differ; see the notes of the family.
            "no_rope_layers": [1, 1],
        },
    ),
    "qwen3_next": (
        "Qwen3Next",
        {
            **DENSE,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            # Layers of the other kind, "linear_attention", need a kernel that only runs on a GPU.
            "layer_types": ["full_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
    ),
    "granitemoe": ("GraniteMoe", GRANITE_MOE),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {
            **GRANITE_MOE,
            "shared_intermediate_size": 16,
            "mamba_n_heads": 8,
            "layer_types": ["attention"] * 2,
            "attention_multiplier": 0.2,
        },
    ),
    "gpt2": ("GPT2", GPT2),
    "gpt_bigcode": ("GPTBigCode", {**GPT2, "activation_function": "gelu_pytorch_tanh"}),
    # Ling 2.0 is in no release of transformers. Its layers are those of dots.llm1.
    "bailing_moe_v2": (
        "Dots1",
        {
            **EXPERTS,
            "num_hidden_layers": 3,
            "first_k_dense_replace": 1,
            "n_routed_experts": 4,
            "n_shared_experts": 2,
            "n_group": 2,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    ),
    "gpt_oss": ("GptOss", {**DENSE, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 3}),
    "deepseek_v2": ("DeepseekV2", {**MLA, "q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek_v3": ("DeepseekV3", MLA),
    # transformers 4 has no Nemotron-H. Its Mamba layers are those of Mamba 2, with the same names,
    # but for the norm, which Zamba 2 has.
    "nemotron_h": (
        "Mamba2",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 8,
            "state_size": 4,
            "n_groups": 2,
            "chunk_size": 4,
            "tie_word_embeddings": False,
        },
    ),
}
"""Name -> (transformers' name of the architecture, fields of its config)."""
NEMOTRON_H = {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "MM",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 4,
    "n_groups": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
"""The config.json of `MODELS["nemotron_h"]`."""
LING = {
    **EXPERTS,
    "model_type": "bailing_moe_v2",
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_shared_experts": 2,
    "routed_scaling_factor": 2.5,
    "rope_theta": 10_000.0,
}
"""The config.json of `MODELS["bailing_moe_v2"]`."""
OWN_CONFIGS: dict[str, dict[str, Any]] = {"nemotron_h": NEMOTRON_H, "bailing_moe_v2": LING}
"""Name -> the config.json of a model that stands in for one which transformers lacks."""


def hugging_face(name: str, folder: Path) -> Any:
    """Return the model called `name` in fp32 and eval mode. Its config.json goes to `folder`."""
    import transformers

    architecture, fields = MODELS[name]
    config = getattr(transformers, f"{architecture}Config")(**fields)
    config._attn_implementation = "eager"
    torch.manual_seed(len(name))
    with quiet():
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        if name == "nemotron_h":
            _norm_by_group(model)
        with torch.no_grad():
            for parameter in model.parameters():
                scale = 0.1 if parameter.dim() == 1 else 0.2
                offset = 1.0 if parameter.dim() == 1 and torch.all(parameter == 1) else 0.0
                parameter.copy_(offset + torch.randn(parameter.shape) * scale)
        config.save_pretrained(folder)
    if name in OWN_CONFIGS:
        (folder / "config.json").write_text(json.dumps(OWN_CONFIGS[name]))
    return model


def _norm_by_group(model: Any) -> None:
    """Give the mixers of Mamba 2 a norm that normalises each group of heads, as in Nemotron-H."""
    from transformers.models.zamba2.modeling_zamba2 import Zamba2RMSNormGated

    for layer in model.backbone.layers:
        mixer = layer.mixer
        mixer.norm = Zamba2RMSNormGated(mixer.intermediate_size, mixer.intermediate_size // mixer.n_groups, eps=1e-5)


VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
WHOLE: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "mistral3": ("mistral", "Mistral3", VISION, {}),
    "gemma3": ("gemma3", "Gemma3", {**VISION, "vision_use_head": False}, {}),
    # Its positions have three numbers, which are equal in text.
    "qwen2_5_vl": (
        "qwen2",
        "Qwen2_5_VL",
        QWEN_VISION,
        {"model_type": "qwen2_5_vl_text", "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
    ),
}
"""`model_type` -> a name of `MODELS`, the beginning of the class's name, the config of the tower,
and in what the text config differs from that of the model.
"""


def whole(name: str, text: Any, folder: Path) -> Any:
    """Return a model of several modalities whose text model has the weights of `text`, and write
    the config of the whole model to `folder`.
    """
    import transformers

    _, prefix, vision, fields = WHOLE[name]
    config = getattr(transformers, f"{prefix}Config")(
        text_config={**text.config.to_dict(), **fields}, vision_config=vision
    )
    config._attn_implementation = "eager"
    config.tie_word_embeddings = text.config.tie_word_embeddings
    with quiet():
        model = getattr(transformers, f"{prefix}ForConditionalGeneration")(config).eval()
        model.model.language_model.load_state_dict(text.model.state_dict())
        model.lm_head.load_state_dict(text.lm_head.state_dict())
        config.save_pretrained(folder)
    return model


def tokens(length: int = 10) -> torch.Tensor:
    """Return two rows of tokens, `[2, length]`."""
    return torch.randint(VOCABULARY, (2, length), generator=torch.Generator().manual_seed(3))


def hugging_face_logits(model: Any) -> torch.Tensor:
    """Return the logits `[2, length, vocabulary]` of a Hugging Face model."""
    with torch.no_grad():
        logits: torch.Tensor = model(tokens(), use_cache=False).logits
    return logits


def megatron(folder: Path, layout: Layout | None = None, **overrides: Any) -> list[Any]:
    """Return this rank's chunks of the model whose config.json is in `folder`, in fp32 and eval
    mode. Their weights are not copied yet.
    """
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.sources.definition import load_definition

    definition = load_definition(str(folder)).override({"params_dtype": "float32", **overrides})
    with quiet():
        return [chunk.eval() for chunk in build_chunks(definition, layout or Layout())]


def megatron_logits(model: Any) -> torch.Tensor:
    """Return the logits `[2, length, vocabulary]` of a model on one rank."""
    ids = tokens()
    with torch.no_grad(), quiet():
        logits: torch.Tensor = model(ids, torch.arange(ids.shape[1]).expand_as(ids), None)
    return logits


@torch.no_grad()
def copy_weights(hf: Any, model: Any) -> None:
    """Fill every parameter of `model`, which is on one rank, from the weights of `hf`."""
    weights = as_llama({name: tensor.detach() for name, tensor in hf.state_dict().items()}, hf.config)
    for name, parameter in model.named_parameters():
        value = _value(name, weights, hf.config)
        assert value.shape == parameter.shape, (name, value.shape, parameter.shape)
        parameter.copy_(value)
    for name, buffer in model.named_buffers():
        if name.endswith("expert_bias"):
            layer = re.search(r"layers\.(\d+)\.", name)
            assert layer
            buffer.copy_(weights[f"model.layers.{layer[1]}.mlp.gate.e_score_correction_bias"])


_NORMS = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "input_layernorm.": "input_layernorm.",
    "self_attention.q_layernorm.": "self_attn.q_norm.",
    "self_attention.k_layernorm.": "self_attn.k_norm.",
    "self_attention.linear_q_up_proj.layer_norm_": "self_attn.q_a_layernorm.",
    "self_attention.linear_kv_up_proj.layer_norm_": "self_attn.kv_a_layernorm.",
    "self_attention.core_attention.softmax_offset": "self_attn.sinks",
    "pre_mlp_layernorm.": "post_attention_layernorm.",
    "mlp.linear_fc1.layer_norm_": "post_attention_layernorm.",
}
_GEMMA2_NORMS = {
    **_NORMS,
    "self_attention.linear_proj.post_layernorm.": "post_attention_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_feedforward_layernorm.",
    "mlp.linear_fc2.post_layernorm.": "post_feedforward_layernorm.",
}
_NORMS_BEHIND = {
    **_NORMS,
    "self_attention.linear_proj.post_layernorm.": "post_attention_layernorm.",
    "mlp.linear_fc2.post_layernorm.": "post_feedforward_layernorm.",
}
_NORMS_OF = {
    "gemma2": _GEMMA2_NORMS,
    "gemma3_text": _GEMMA2_NORMS,
    "olmo2": _NORMS_BEHIND,
    "exaone4": _NORMS_BEHIND,
    "glm4": {
        **_NORMS,
        "self_attention.linear_proj.post_layernorm.": "post_self_attn_layernorm.",
        "mlp.linear_fc2.post_layernorm.": "post_mlp_layernorm.",
    },
}
_LINEARS = {
    "self_attention.linear_proj": "self_attn.o_proj",
    "self_attention.linear_q_proj": "self_attn.q_proj",
    "self_attention.linear_q_down_proj": "self_attn.q_a_proj",
    "self_attention.linear_q_up_proj": "self_attn.q_b_proj",
    "self_attention.linear_kv_down_proj": "self_attn.kv_a_proj_with_mqa",
    "self_attention.linear_kv_up_proj": "self_attn.kv_b_proj",
    "mlp.linear_fc2": "mlp.down_proj",
    "mlp.shared_experts.linear_fc2": "mlp.shared_experts.down_proj",
}


def _value(name: str, weights: Mapping[str, torch.Tensor], config: Any) -> torch.Tensor:
    """Return the value of megatron-core's parameter `name`."""
    ends = {
        "embedding.word_embeddings.weight": "model.embed_tokens.weight",
        "embedding.position_embeddings.weight": "transformer.wpe.weight",
        "decoder.final_layernorm.weight": "model.norm.weight",
        "decoder.final_layernorm.bias": "model.norm.bias",
        "output_layer.weight": "lm_head.weight",
    }
    if config.model_type == "mamba2":
        ends |= {
            "embedding.word_embeddings.weight": "backbone.embeddings.weight",
            "decoder.final_norm.weight": "backbone.norm_f.weight",
        }
    if name in ends:
        return weights[ends[name]]
    if config.model_type == "mamba2":
        # From 0.19 a mixer has the weight and the bias of its convolution itself.
        name = name.replace("decoder", "backbone").replace("mixer.in_proj.layer_norm_", "norm.")
        return weights[name.replace("conv1d_", "conv1d.")]
    layer, rest = re.fullmatch(r"decoder\.layers\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
    prefix = f"model.layers.{layer}."
    for ours, theirs in _NORMS_OF.get(config.model_type, _NORMS).items():
        if rest.startswith(ours):
            return weights[f"{prefix}{theirs}{rest.removeprefix(ours)}"]
    linear, _, kind = rest.rpartition(".")
    of = _Layer({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}, config, linear)
    return of.value(kind)


_ROUTERS = {
    "mixtral": "block_sparse_moe.gate",
    "gpt_oss": "mlp.router",
    "llama4_text": "feed_forward.router",
}


class _Layer:
    """The weights of one layer of the Hugging Face model, seen as one linear of megatron-core."""

    def __init__(self, weights: Mapping[str, torch.Tensor], config: Any, linear: str) -> None:
        self.weights, self.config, self.linear = weights, config, linear

    def value(self, kind: str) -> torch.Tensor:
        if self.linear == "self_attention.linear_qkv":
            return self._qkv(kind)
        if self.linear == "mlp.router":
            return self._router(kind)
        if found := re.fullmatch(r"mlp\.experts\.(?:local_experts\.(\d+)\.)?(linear_fc[12])", self.linear):
            kind, number = re.fullmatch(r"(weight|bias)(\d*)", kind).groups()  # type: ignore[union-attr]
            return self._expert(found[2], kind, int(found[1] or number))
        if self.linear in {"mlp.linear_fc1", "mlp.shared_experts.linear_fc1"}:
            return self._gate_up(self._renamed(self.linear.removesuffix(".linear_fc1")), kind)
        if (self.linear, kind) == ("mlp.shared_experts", "gate_weight"):
            return self.weights["mlp.shared_expert_gate.weight"]
        theirs = _LINEARS[self.linear]
        return self.weights[f"{self._renamed(theirs)}.{kind}"]

    def _router(self, kind: str) -> torch.Tensor:
        if kind == "e_score_correction_bias":
            return self.weights[f"mlp.moe_statics.{kind}"][0]
        return self.weights[f"{_ROUTERS.get(self.config.model_type, 'mlp.gate')}.{kind}"]

    def _renamed(self, theirs: str) -> str:
        family = self.config.model_type
        if family == "starcoder2":
            return theirs.replace("down_proj", "c_proj")
        if family == "llama4_text":
            theirs = re.sub(r"^mlp\b", "feed_forward", theirs)
        one = family in {"qwen2_moe", "qwen3_next", "llama4_text"}
        return theirs.replace("shared_experts", "shared_expert") if one else theirs

    def _gate_up(self, at: str, kind: str) -> torch.Tensor:
        fused = self.weights.get(f"{at}.gate_up_proj.{kind}", self.weights.get(f"{at}.c_fc.{kind}"))
        if fused is not None:
            return fused
        up = self.weights[f"{at}.up_proj.{kind}"]
        gate = self.weights.get(f"{at}.gate_proj.{kind}")
        return up if gate is None else torch.cat([gate, up])

    def _expert(self, linear: str, kind: str, number: int) -> torch.Tensor:
        if self.config.model_type == "gpt_oss":
            packed = f"mlp.experts.{'gate_up_proj' if linear == 'linear_fc1' else 'down_proj'}"
            value = self.weights[packed + ("_bias" if kind == "bias" else "")][number]
            value = value if kind == "bias" else value.T
            return value if linear == "linear_fc2" else torch.cat([value[0::2], value[1::2]])
        if self.config.model_type == "llama4_text":
            packed = "gate_up_proj" if linear == "linear_fc1" else "down_proj"
            return self.weights[f"feed_forward.experts.{packed}"][number].T
        at, gate, up, down = "mlp.experts", "gate_proj", "up_proj", "down_proj"
        if self.config.model_type == "mixtral":
            at, gate, up, down = "block_sparse_moe.experts", "w1", "w3", "w2"
        names = [down] if linear == "linear_fc2" else [gate, up]
        return torch.cat([self.weights[f"{at}.{number}.{name}.{kind}"] for name in names])

    def _qkv(self, kind: str) -> torch.Tensor:
        """Pack group by group: query heads, then their gates, then the key head, then the value
        head.
        """
        heads = self.config.num_attention_heads
        groups = 1 if getattr(self.config, "multi_query", False) else getattr(self.config, "num_key_value_heads", heads)
        d = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
        fused = self.weights.get(f"self_attn.qkv_proj.{kind}")
        if fused is None:
            q, k, v = (self.weights[f"self_attn.{part}_proj.{kind}"] for part in "qkv")
        else:
            q, k, v = fused.split([heads * d, groups * d, groups * d])
        rows = []
        for group in range(groups):
            own = range(group * heads // groups, (group + 1) * heads // groups)
            if len(q) == 2 * heads * d:
                rows += [q[2 * d * head : 2 * d * head + d] for head in own]
                rows += [q[2 * d * head + d : 2 * d * head + 2 * d] for head in own]
            else:
                rows += [q[d * head : d * (head + 1)] for head in own]
            rows += [k[d * group : d * (group + 1)], v[d * group : d * (group + 1)]]
        return torch.cat(rows)


@contextlib.contextmanager
def one_rank() -> Any:
    """Enter the virtual world with one rank on the CPU."""
    from clora_inspect.virtual import virtual_cluster, virtual_megatron

    with virtual_megatron("cpu"), virtual_cluster(Layout()):
        yield
