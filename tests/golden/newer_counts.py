"""Count the parameters of small models of families that the pinned transformers lacks:
`newer_counts.json`.

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

sys.path[:0] = [str(Path(__file__).parents[1] / "clora_inspect" / "verify")]

from family_configs import NEWER, VARIATIONS, small_config  # noqa: E402


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
    # What validates configs there raises a subclass of ValueError or of TypeError.
    except (TypeError, ValueError, KeyError, ZeroDivisionError, AttributeError):
        return None
    return sum(parameter.numel() for parameter in model.parameters()) + output


if __name__ == "__main__":
    counts = {
        family: {name: count({**small_config(family), **fields}) for name, fields in VARIATIONS.items()}
        for family in NEWER
    }
    json.dump(counts, sys.stdout, indent=1)
    sys.stdout.write("\n")
