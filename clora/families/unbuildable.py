"""Families that are known, and that megatron-core 0.16 has no layers for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora.families.base.family import Family

FAMILIES: tuple[Family, ...] = ()

_SIDE_BY_SIDE = "attention and MLP read the same input side by side, which no layer of megatron-core does."
_ALIBI = "positions are biases on the attention scores (ALiBi), which megatron-core does not have."
_MAMBA_1 = "its Mamba layers are of the first kind, and megatron-core's are Mamba 2."
_RECURRENT = "its recurrent layers are of a kind that megatron-core does not have."

UNBUILDABLE = {
    **dict.fromkeys(("cohere", "cohere2", "codegen", "falcon", "gpt_neox", "gptj", "phi"), _SIDE_BY_SIDE),
    **dict.fromkeys(("bloom", "mpt"), _ALIBI),
    **dict.fromkeys(("falcon_mamba", "jamba", "mamba"), _MAMBA_1),
    **dict.fromkeys(("recurrent_gemma", "rwkv", "xlstm"), _RECURRENT),
    **dict.fromkeys(
        ("aya_vision", "cohere2_vision"),
        "its text model is cohere2, whose attention and MLP read the same input side by side.",
    ),
    "apertus": "the activation of its MLP has parameters of its own, which no MLP of megatron-core has.",
    "bitnet": "norms stand before the output and the down projection, where no layer of megatron-core has one.",
    "dbrx": "its LayerNorms have no bias, and megatron-core's have one.",
    "deepseek_v4": "hyper-connections join its layers, which megatron-core's releases do not have.",
    "diffllama": "attention is the difference of two softmaxes, which no layer of megatron-core computes.",
    "ernie4_5_vl_moe_text": "tokens of text and of images have experts of their own, of different widths.",
    "falcon_h1": "every layer runs Mamba and attention side by side, which no layer of megatron-core does.",
    **dict.fromkeys(
        ("gemma3n", "gemma3n_text"),
        "every layer has an embedding of its own and reads several residuals, which no layer of megatron-core does.",
    ),
    **dict.fromkeys(
        ("gemma4", "gemma4_text"),
        "heads of layers without a window have another width, and megatron-core has one width for all layers.",
    ),
    "kimi_linear": "most layers are Kimi Delta Attention, which megatron-core does not have.",
    **dict.fromkeys(("lfm2", "lfm2_moe"), "most layers are short convolutions, which megatron-core does not have."),
    "longcat_flash": "every layer has two attention blocks, and some experts do nothing; megatron-core has neither.",
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "modernbert", "electra", "deberta-v2"),
        "it is an encoder, and what is built here predicts the next token.",
    ),
    **dict.fromkeys(
        ("t5", "mt5", "bart", "mbart", "umt5"), "it has an encoder and a decoder, and a decoder alone is built here."
    ),
    "mimo_v2_flash": "layers with a window have other numbers of heads, and megatron-core has one for all layers.",
    "minimax": "most layers are lightning attention, which megatron-core does not have.",
    "mllama": "the text model attends to the image in layers of its own, which megatron-core's GPT does not have.",
    "olmo": "its LayerNorms have no parameters, and megatron-core's have a weight and a bias.",
    "opt": "the table of learned positions has two rows more than positions, which megatron-core's has not.",
    **dict.fromkeys(
        ("step3_vl", "step3_text"),
        "queries are compressed and normalised before their projection, and keys are not, which no attention of "
        "megatron-core does.",
    ),
    "phimoe": "the output layer of every released model has a bias, and megatron-core's has none.",
    **dict.fromkeys(
        ("zamba", "zamba2"), "several layers share one attention block, which megatron-core's stacks do not do."
    ),
}
"""`model_type` -> why it cannot be built, as a sentence."""
