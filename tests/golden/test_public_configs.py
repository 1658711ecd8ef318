"""Public models: the base has as many parameters as transformers builds, or the config is refused
for a reason.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import golden_models
import pytest

from clora.errors import ModelError
from clora.families.base.hf_config import HFConfig
from clora_inspect.sources.definition import from_hf_config

PUBLIC: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("public_configs.json").read_text())
REFUSED = {
    "falcon-h1-7b": "every layer runs Mamba and attention side by side",
    "llama-seqcls": "the model has another head",
}


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in REFUSED])
def test_the_base_has_the_parameters_that_transformers_builds(name: str) -> None:
    public = PUBLIC[name]
    definition = from_hf_config(name, HFConfig(origin=name, values=public["config"]))
    assert golden_models.parameters(definition) == public["parameters"]
    left_out = public["whole"] - public["parameters"]
    assert (f"left out: {left_out:,} parameters" in " ".join(definition.notes)) == (left_out > 0)


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_a_model_that_cannot_be_built_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=re.escape(reason)):
        from_hf_config(name, HFConfig(origin=name, values=PUBLIC[name]["config"]))
