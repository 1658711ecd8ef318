"""Count the parameters of small models of families that the pinned transformers lacks, and of the
published models of these families: `newer_counts.json`.

It runs in an environment of its own with transformers 5 and torch, without this project:

python tests/golden/newer_counts.py > tests/golden/newer_counts.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

sys.path[:0] = [str(Path(__file__).parents[1] / "clora_inspect" / "verify")]

from family_configs import NEWER, VARIATIONS, small_config  # noqa: E402

PUBLISHED = (
    *("deepseek-v3.2", "minimax-m2", "qwen3.5-35b-a3b"),
    *("nemotron-h-8b", "nemotron-nano-9b-v2", "nemotron-3-nano-30b"),
)
"""Names of `public_configs.json`."""


def published() -> dict[str, int | None]:
    """Count the language models of `PUBLISHED`."""
    configs = json.loads(Path(__file__).with_name("public_configs.json").read_text())
    # A quantized model is counted as the model that was quantized.
    return {
        name: count({key: value for key, value in configs[name]["config"].items() if key != "quantization_config"})
        for name in PUBLISHED
    }


def count(values: dict[str, Any]) -> int | None:
    """The parameters of the language model; None if transformers refuses the config."""
    model_type = values.pop("model_type")
    try:
        if model_type == "glm4v_moe_text":
            from transformers.models.glm4v_moe import modeling_glm4v_moe as glm

            with torch.device("meta"):
                model = glm.Glm4vMoeTextModel(glm.Glm4vMoeTextConfig(**values))
            # The whole model has the output layer.
            output = 0 if values.get("tie_word_embeddings") else values["vocab_size"] * values["hidden_size"]
        else:
            with torch.device("meta"):
                config = transformers.CONFIG_MAPPING[model_type](**values)
                model, output = transformers.AutoModelForCausalLM.from_config(config), 0
    except (StrictDataclassError, TypeError, ValueError, KeyError, ZeroDivisionError, AttributeError):
        return None
    return sum(parameter.numel() for parameter in model.parameters()) + output


if __name__ == "__main__":
    counts = {
        family: {name: count({**small_config(family), **fields}) for name, fields in VARIATIONS.items()}
        for family in NEWER
    }
    json.dump({"published": published(), **counts}, sys.stdout, indent=1)
    sys.stdout.write("\n")
