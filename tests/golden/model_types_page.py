"""Every `model_type` that a config.json may say, and what becomes of it: `docs/model-types.md`.

It reads transformers' registry as installed, and Megatron-Bridge's from `bridge_model_types.json`.
After a change of a family, or of one of the two, write the page again:

python tests/golden/model_types_page.py > docs/model-types.md
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "clora_inspect" / "verify")]

from family_configs import NEWER  # noqa: E402

from clora.families import families  # noqa: E402
from clora.families.multimodal import MULTIMODAL  # noqa: E402
from clora.families.unbuildable import UNBUILDABLE  # noqa: E402

BRIDGE = json.loads((HERE / "bridge_model_types.json").read_text())

PUBLISHED = "the code published with the weights"
NEWER_RELEASE = "transformers 5.24.0, in an environment of its own"
NOT_PINNED = {
    "bailing_moe": f"{PUBLISHED}, whose layers are those of dots1",
    "bailing_moe_v2": f"{PUBLISHED}, whose layers are those of dots1",
    "kimi_k2": f"{PUBLISHED}, which is DeepSeek-V3's",
    "mimo": PUBLISHED,
    **dict.fromkeys(NEWER, NEWER_RELEASE),
}
"""Native families that the pinned transformers lacks -> what their parameters are counted
against.
"""

NATIVE, TEXT_PART, BRIDGE_ONLY, REFUSED, FUNCTION = "native", "text part native", "via Bridge", "refused", "function"

HEAD = """\
# Model types

What `clora-inspect` makes of the `model_type` of a config.json. This page is generated:
`python tests/golden/model_types_page.py > docs/model-types.md`.

- **native**: the model is built from config.json alone. Its parameters are as many as those of the
  model named in the last column, to the last one; `tests/golden/` holds that, over variations of
  the config.
- **text part native**: of a model of several modalities the language model is built, and a note of
  the plan names the rest.
- **via Bridge**: Megatron-Bridge has it, in the release that is read below. `--via bridge` lets an
  installed one build it; a function may return its provider (FILE.py:FUNCTION).
- **refused**: a layer of it is not in megatron-core 0.16, or it is no decoder; the reason is here.
  Where it says so, Megatron-Bridge brings layers of its own.
- **function**: nothing is known against it. Build the model in a function.
"""


def fate(model_type: str) -> tuple[str, str]:
    """The verdict on a config.json of this `model_type`, and the truth of its count, or why."""
    bridge = model_type in BRIDGE["model_types"]
    if model_type in families():
        return NATIVE, NOT_PINNED.get(model_type, f"transformers {transformers.__version__}")
    if model_type in MULTIMODAL:
        return TEXT_PART, f"as {MULTIMODAL[model_type].text_type}, or what its text config says"
    if model_type in UNBUILDABLE:
        return REFUSED, UNBUILDABLE[model_type] + (" Megatron-Bridge has a bridge for it." if bridge else "")
    return (BRIDGE_ONLY if bridge else FUNCTION), ""


def render() -> str:
    """Write the page: the numbers, then a row for each `model_type`."""
    causal, images = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    listed = {*causal, *images, *BRIDGE["model_types"], *families(), *MULTIMODAL, *UNBUILDABLE}
    rows = {model_type: fate(model_type) for model_type in sorted(listed, key=str.lower)}
    others = set(CONFIG_MAPPING_NAMES) - listed
    return "\n".join([HEAD, *_numbers(rows, causal, images, others), *_table(rows, causal, images)]) + "\n"


def _numbers(rows: dict[str, tuple[str, str]], causal: set[str], images: set[str], others: set[str]) -> list[str]:
    groups = {
        f"causal language models of transformers {transformers.__version__}": causal,
        "models of images and text of the same release": images,
        f"Megatron-Bridge {BRIDGE['release']} (read on {BRIDGE['read_on']})": set(BRIDGE["model_types"]),
        "all, with those in neither registry": set(rows),
    }
    kinds = (NATIVE, TEXT_PART, BRIDGE_ONLY, REFUSED, FUNCTION)
    lines = [f"| registry | {' | '.join(kinds)} | sum |", f"|---|{'---|' * (len(kinds) + 1)}"]
    for title, members in groups.items():
        counts = Counter(rows[model_type][0] for model_type in members)
        lines.append(f"| {title} | {' | '.join(str(counts[kind]) for kind in kinds)} | {len(members)} |")
    said = (
        f"transformers knows {len(others)} other types: encoders, models of speech and of images, and parts of models."
    )
    return [*lines, "", said, "None of them is planned from its config.json."]


def _table(rows: dict[str, tuple[str, str]], causal: set[str], images: set[str]) -> list[str]:
    lines = ["", "| `model_type` | in | what | counted against, or the reason |", "|---|---|---|---|"]
    for model_type, (what, why) in rows.items():
        registries = [
            *(["causal LM"] if model_type in causal else []),
            *(["image and text"] if model_type in images else []),
            *(["Bridge"] if model_type in BRIDGE["model_types"] else []),
        ]
        lines.append(f"| {model_type} | {', '.join(registries)} | {what} | {why} |")
    return lines


if __name__ == "__main__":
    sys.stdout.write(render())
