"""The configuration that `clora-inspect config init` writes. Pure text.

It has every key that people need, with comments, and works as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clora_inspect.config.document import TABLE
from clora_inspect.config.key_path import written
from clora_inspect.sources.model_name import shown_name

if TYPE_CHECKING:
    from collections.abc import Mapping


# The text goes through `str.format`, which makes one brace of two.
_TEMPLATE = """\
# What canonical LoRA adapts here, and on which layouts. `clora-inspect --check` compares it with
# snapshots/ in CI. `clora-inspect config show` lists every value and where it came from;
# `clora-inspect config schema` describes all keys.
{top}snapshots = "snapshots"

# A LoRA by name: the fields of clora.CanonicalLoRA. Those that are left out keep their defaults.
[{stem}lora.main]
dim = 16
alpha = 32
target_modules = [{attention},
                  {mlp}]

# A job: the model that gets the adapters, and the layouts it runs on.
[{stem}jobs.{job}]
# A built-in architecture, a Hugging Face folder or config.json, package.module:function or
# file.py:function.
model = {model}
lora = "main"
layouts = {{ one = {{}} }}
# Several: layouts = {{ train = {{ tp = 4, pp = 2, sp = true }}, serve = {{ tp = 8 }} }}
# Fields of the model's own config: set.model = {{ num_layers = 4 }}
# What the adapter is for, so that rules can look ahead: serve = "vllm", export = true,
# gpu-memory-gib = 80, checkpoint = "runs/base"

[{stem}check]
select = ["CL"]             # rules: codes, beginnings of codes, or names
fail-on = "warning"         # the mildest severity that fails: error, warning or info
require-snapshot = true     # a job without a snapshot fails
verify = "off"              # tiny: also prove the surgery on a shrunken model

# Settings of a rule have its code:
# [{stem}rules.CL105]
# minimum-coverage = 0.5

# Findings that are known and meant. A reason is required; the last day is not.
# [[{stem}allow]]
# rule = "CL104"
# where = "decoder.layers.{{0..3}}.*"
# reason = "first four layers: q and v only"
# until = 2027-03-31
"""


def template(model: str, fields: Mapping[str, Any], *, prefix: bool) -> str:
    """Return the text of a configuration for `model`.

    Args:
        model: what to build.
        fields: what is known of its megatron-core config. It decides which targets the model has.
        prefix: whether every table begins with `tool.clora-inspect`, as in a `pyproject.toml`.
    """
    attention, mlp = (", ".join(f'"{target}"' for target in targets) for targets in _targets(fields))
    return _TEMPLATE.format(
        top=f"[{'.'.join(TABLE)}]\n" if prefix else "",
        stem=".".join(TABLE) + "." if prefix else "",
        attention=attention,
        mlp=mlp,
        job=written((job_name(model),)),
        model=_quoted(model),
    )


def job_name(model: str) -> str:
    """Return a name for a job that builds `model`. It is also the name of a folder of snapshots."""
    shown = shown_name(model)
    last = (
        shown.rpartition(":")[2]
        if ":" in shown
        else shown.rstrip("/").removesuffix("/config.json").removesuffix(".json").rpartition("/")[2]
    )
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", last).strip("-._+") or "main"


def _targets(fields: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the targets that cover every linear of the attention, and of the MLP."""
    attention = ["linear_q", "linear_k", "linear_v"]
    if fields.get("multi_latent_attention"):
        query = ["linear_q_down_proj", "linear_q_up_proj"] if fields.get("q_lora_rank") else ["linear_q_proj"]
        attention = [*query, "linear_kv_down_proj", "linear_kv_up_proj"]
    gate = ["linear_fc1_gate"] if fields.get("gated_linear_unit", True) else []
    return [*attention, "linear_proj"], [*gate, "linear_fc1_up", "linear_fc2"]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
