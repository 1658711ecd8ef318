"""What `config init` writes: a file with every key that people need, each with a comment, that
works as it is. Pure text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clora_inspect.config.document import TABLE
from clora_inspect.config.key_path import written

if TYPE_CHECKING:
    from collections.abc import Mapping


def template(model: str, fields: Mapping[str, Any], *, prefix: bool) -> str:
    """A configuration for `model`; with the prefix of a `pyproject.toml` where asked.

    Args:
        model: what to build.
        fields: what is known of its megatron-core config; it decides which targets the model has.
        prefix: whether every table begins with `tool.clora-inspect`.
    """
    stem = ".".join(TABLE) + "." if prefix else ""
    top = f"[{'.'.join(TABLE)}]\n" if prefix else ""
    attention, mlp = (", ".join(f'"{target}"' for target in targets) for targets in _targets(fields))
    job = written((job_name(model),))
    return f"""# What canonical LoRA adapts here, and on which layouts. `clora-inspect --check` holds it against snapshots/ in CI;
# `clora-inspect config show` tells every value and where it came from, `clora-inspect config
# schema` all keys.
{top}snapshots = "snapshots"

# A LoRA by name: the fields of clora.CanonicalLoRA. Those that are left out keep their defaults.
[{stem}lora.main]
dim = 16
alpha = 32
target_modules = [{attention},
                  {mlp}]

# A job: what to put the adapters in, and the layouts it runs on.
[{stem}jobs.{job}]
# A built-in architecture, a Hugging Face folder or config.json, package.module:function or
# file.py:function.
model = {_quoted(model)}
lora = "main"
layouts = {{ one = {{}} }}
# Several: layouts = {{ train = {{ tp = 4, pp = 2, sp = true }}, serve = {{ tp = 8 }} }}
# Fields of the model's own config: set.model = {{ num_layers = 4 }}
# What the adapter is for, so that rules can look ahead: serve = "vllm", export = true,
# gpu-memory-gib = 80

[{stem}check]
select = ["CL"]             # rules: codes, prefixes or names
fail-on = "warning"         # the mildest severity that fails: error, warning or info
require-snapshot = true     # a job without a snapshot fails
verify = "off"              # tiny: also prove the surgery on a shrunken model

# Settings of a rule stand under its code:
# [{stem}rules.CL105]
# minimum-coverage = 0.5

# Findings that are known and meant. A reason is required; the last day is not.
# [[{stem}allow]]
# rule = "CL104"
# where = "decoder.layers.{{0..3}}.*"
# reason = "first four layers: q and v only"
# until = 2027-03-31
"""


def job_name(model: str) -> str:
    """A name for a job that builds `model`: what stands for it in folders of snapshots."""
    last = (
        model.rpartition(":")[2]
        if ":" in model
        else model.rstrip("/").removesuffix("/config.json").removesuffix(".json").rpartition("/")[2]
    )
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", last).strip("-._+") or "main"


def _targets(fields: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Every linear of the attention, and of the MLP, by the names that this model has."""
    attention = ["linear_q", "linear_k", "linear_v"]
    if fields.get("multi_latent_attention"):
        query = ["linear_q_down_proj", "linear_q_up_proj"] if fields.get("q_lora_rank") else ["linear_q_proj"]
        attention = [*query, "linear_kv_down_proj", "linear_kv_up_proj"]
    gate = ["linear_fc1_gate"] if fields.get("gated_linear_unit", True) else []
    return [*attention, "linear_proj"], [*gate, "linear_fc1_up", "linear_fc2"]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
