"""Numbers that were established without this tool, by transformers, PEFT, megatron-core or hand.

Each job is made after a public report of somebody who fine-tunes a model. A row has a config or a
job, a command, and what it must print.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from command_line import CommandLine

MAMBA: dict[str, Any] = {
    "model_type": "nemotron_h",
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1024,
    "mlp_hidden_act": "relu2",
    "mamba_num_heads": 16,
    "mamba_head_dim": 64,
    "ssm_state_size": 32,
    "n_groups": 2,
    "conv_kernel": 4,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
QWEN3_4B: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151669,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
MISTRAL3: dict[str, Any] = {
    "model_type": "mistral3",
    "text_config": {
        "model_type": "mistral",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 1024,
        "max_position_embeddings": 2048,
    },
}


@dataclass(frozen=True)
class Case:
    """A Hugging Face config, the options of `plan`, and what is right."""

    config: dict[str, Any]
    options: str = ""
    status: ExitCode = ExitCode.OK
    base: int | None = None
    """Parameters of the base on a rank."""
    trainable: int | None = None
    """Parameters of all adapters of the whole model."""
    says: tuple[str, ...] = ()
    says_not: tuple[str, ...] = ()


CASES = {
    # Python's json and transformers read the word; no parameter depends on the key.
    "Infinity": Case(
        {**MAMBA, "num_hidden_layers": 4, "hybrid_override_pattern": "M-M*", "time_step_limit": [0.0, float("inf")]},
        base=6_061_920,
        trainable=204_800,
    ),
    # Megatron pads the vocabulary to a multiple of 128 tp, and the message has the number.
    "vocabulary": Case(QWEN3_4B, "--tp 4", ExitCode.USAGE, says=("151669", "--set model.vocab_size=152064")),
    "padded vocabulary": Case(
        QWEN3_4B, "--tp 4 --set model.vocab_size=152064", base=1_005_846_016, trainable=66_060_288
    ),
    # The words of transformers' current class for the kinds of layers.
    "layer kinds": Case(
        {**MAMBA, "layers_block_type": ["linear_attention", "mlp", "linear_attention", "full_attention"]},
        says=("all params: 6,266,720",),
    ),
    "prediction layers": Case(
        {
            **MAMBA,
            "num_hidden_layers": 4,
            "hybrid_override_pattern": "M-M*",
            "num_nextn_predict_layers": 1,
            "mtp_hybrid_override_pattern": "*E",
        },
        says=("multi-token-prediction", "not built"),
    ),
    # One label: transformers has 7,504,928,768 parameters, a score of 1 x 4096 and no lm_head.
    "reward model": Case(
        {**LLAMA_8B, "architectures": ["LlamaForSequenceClassification"], "num_labels": 1},
        "--target-modules linear_q,output_layer",
        ExitCode.USAGE,
        says=("LlamaForSequenceClassification", "ForCausalLM", "FILE.py:FUNCTION"),
    ),
    # LlamaConfig has a default for each of the five sizes, and the released 7B leaves them out.
    "left-out sizes": Case(
        {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "vocab_size": 32064},
        base=6_738_939_904,
        says_not=("is missing",),
    ),
    "text model of a whole one": Case(MISTRAL3, says_not=("Save the object under text_config",)),
}


@pytest.mark.parametrize("name", CASES)
def test_plan_of_a_config(clora_inspect: CommandLine, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    (tmp_path / "config.json").write_text(json.dumps(case.config))
    ran = clora_inspect("plan", str(tmp_path), "--isolated", *case.options.split())
    assert ran.status == case.status, ran
    text = " ".join((ran.out + ran.err).split())
    for words in case.says:
        assert words in text
    for words in case.says_not:
        assert words not in text
    if case.base is not None:
        assert f"base, per rank: {case.base:,} params" in text
    if case.trainable is not None:
        assert f"trainable params: {case.trainable:,} ||" in text
