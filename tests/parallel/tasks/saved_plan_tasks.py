"""Carry out a saved plan or a snapshot on real ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import clora
from clora_inspect import load_plan
from clora_inspect.job.layout import Layout
from clora_inspect.launch.agreement import Ranks
from clora_inspect.launch.gate import judge
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition


def carry_out(
    model: str, axes: dict[str, Any], fields: dict[str, Any], lora: dict[str, Any], file: str, is_plan: bool
) -> dict[str, Any]:
    """Adapt the model by the file, and say what is not as `lora.plan` on this rank has it."""
    with quiet():
        chunks = build_chunks(load_definition(model).override(fields), Layout(**axes))
    own = clora.CanonicalLoRA(**lora).plan(chunks)
    saved = load_plan(file)
    plan, settings = saved.for_rank(chunks)
    if is_plan:
        rank = torch.distributed.get_rank()
        stage = rank * axes.get("pp", 1) // torch.distributed.get_world_size()
        alike = [saved.for_rank(), saved.for_rank(rank=rank), saved.for_rank(stage=stage)]
        same_rank = all(each.plan == plan for each in alike)
        same_settings = settings == clora.CanonicalLoRA(**lora)
        # A saved plan does not keep everything of a tower.
        names = [name for name in own.__struct_fields__ if name != "towers"]
        unlike = [name for name in names if getattr(own, name) != getattr(plan, name)]
        unlike += [] if [each.path for each in own.towers] == [each.path for each in plan.towers] else ["towers"]
    else:
        same_rank, same_settings = True, (settings.dim, settings.alpha) == (lora["dim"], lora["alpha"])
        unlike = [] if own.placements == plan.placements else ["placements"]
    clora.apply(plan, chunks, settings)
    verdict = judge(chunks, Path(file), Ranks(torch.device("cpu")))
    text = verdict.text if verdict.code else ""
    return {"unlike": unlike, "rank": same_rank, "settings": same_settings, "gate": text}
