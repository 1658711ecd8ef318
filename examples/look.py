"""Look: which adapters a job gets, on every rank of its cluster. Needs no GPU.

    python examples/look.py                    # Qwen3-30B-A3B on 64 GPUs
    python examples/look.py llama3-70b 8 4     # another model, tp 8, pp 4

The same as `clora-inspect plan JOB`, from Python, where a plan is data.
"""

from __future__ import annotations

import sys
from collections import Counter

from clora import CanonicalLoRA
from clora_inspect.job import Job, Layout
from clora_inspect.pipeline import plan_job


def main(model: str = "qwen3-30b-a3b", tp: str = "4", pp: str = "2") -> None:
    """Print the placements of one job by target, and what every pipeline stage trains."""
    lora = CanonicalLoRA(target_modules=["linear_q", "linear_v", "linear_fc1_up"], dim=16, alpha=32)
    # Unset, etp would be tp, as in megatron-core.
    experts = {"ep": 8, "etp": 1} if "moe" in model or "-a" in model else {}
    plan = plan_job(Job(model=model, lora=lora, layout=Layout(tp=int(tp), pp=int(pp), **experts)))

    placements = [placement for ranks in plan.rank_classes for placement in ranks.placements]
    for target, number in Counter(placement.target for placement in placements).items():
        print(f"{target:<16} {number:>4} adapters")
    for ranks in plan.rank_classes:
        print(f"stage {ranks.pp}: {ranks.count} ranks, each trains {ranks.trainable_params:,} parameters")
    for finding in plan.findings:
        print(f"{finding.code} {finding.message}")


if __name__ == "__main__":
    main(*sys.argv[1:])
