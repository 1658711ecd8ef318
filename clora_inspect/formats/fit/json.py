"""The layouts in which a job fits, as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora_inspect.fit.estimate import Estimate
    from clora_inspect.fit.search import Fit

SCHEMA = 1


def render(name: str, found: Fit) -> str:
    """Return the document with the layouts that fit, cheapest first."""
    question = found.question
    document = {
        "schema": SCHEMA,
        "job": name,
        **dataclasses.asdict(question.batch),
        "gpu_memory_bytes": question.limit_bytes,
        "assumed": dataclasses.asdict(question.machine),
        "candidates": found.candidates,
        "too_large": found.too_large,
        "not_looked_at": found.not_looked_at,
        "measured": found.measured,
        "left_out": dict(found.refused.reasons.most_common()),
        "layouts": [_entry(each) for each in found.fitting],
        "smallest": _or_none(found.smallest),
        "own_layout": _or_none(found.own),
        "own_layout_fault": found.own_fault,
        "smallest_change": _or_none(found.smallest_change),
        "on_more_gpus": _or_none(found.on_more),
    }
    return json.dumps(document, indent=1) + "\n"


def _or_none(each: Estimate | None) -> dict[str, Any] | None:
    return None if each is None else _entry(each)


def _entry(each: Estimate) -> dict[str, Any]:
    layout = each.candidate.layout
    return {
        **layout.sizes(),
        "vpp": layout.vpp,
        "dp": layout.dp,
        "gpus": layout.world,
        "sp": layout.sequence_parallel,
        "micro_batch_size": each.candidate.rows,
        "recompute": each.candidate.recompute,
        "peak_bytes": each.peak_bytes,
        "fullest_stage": each.fullest_stage,
        "sent_bytes": each.sent_bytes,
        "bubble": round(each.bubble, 6),
        "seconds": round(each.seconds, 6),
    }
