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
    """Return the document with all layouts that fit, cheapest first."""
    document = {
        "schema": SCHEMA,
        "job": name,
        **dataclasses.asdict(found.batch),
        "gpu_memory_bytes": found.limit_bytes,
        "assumed": dataclasses.asdict(found.machine),
        "too_large": found.too_large,
        "left_out": dict(found.refused.reasons.most_common()),
        "layouts": [_entry(each) for each in found.fitting],
        "smallest": _entry(found.smallest),
        "own_layout": _entry(found.asked) if found.asked else None,
        "smallest_change": _entry(found.smallest_change) if found.smallest_change else None,
    }
    return json.dumps(document, indent=1) + "\n"


def _entry(each: Estimate) -> dict[str, Any]:
    layout = each.candidate.layout
    return {
        **layout.sizes(),
        "vpp": layout.vpp,
        "dp": layout.dp,
        "sp": layout.sequence_parallel,
        "micro_batch_size": each.candidate.rows,
        "recompute": each.candidate.recompute,
        "peak_bytes": each.peak_bytes,
        "fullest_stage": each.fullest_stage,
        "sent_bytes": each.sent_bytes,
        "bubble": round(each.bubble, 6),
        "seconds": round(each.seconds, 6),
    }
