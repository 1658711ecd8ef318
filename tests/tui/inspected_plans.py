"""Jobs for the tests of the interface: a typo, layers that differ, experts, a wide cluster; and a
plan with as many modules as users have.
"""

from __future__ import annotations

from msgspec.structs import replace

from clora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import JobPlan, RankClass

TYPO = ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1_gat", "linear_fc1_up", "linear_fc2"]
MLA = [
    "linear_q_down_proj",
    "linear_q_up_proj",
    "linear_kv_down_proj",
    "linear_kv_up_proj",
    "linear_proj",
    "linear_fc1_up",
    "linear_fc1_gate",
    "linear_fc2",
]

JOBS = {
    "typo": Job(
        model="llama3-8b",
        lora=CanonicalLoRA(target_modules=TYPO, dim=16, alpha=32),
        layout=Layout(tp=4, pp=2),
        targets_written=True,
    ),
    "mixtral": Job(
        model="mixtral-8x7b",
        lora=CanonicalLoRA(
            target_modules=["linear_q", "linear_v", "*.layers.{0..7}.mlp.experts.linear_fc1_up"], dim=16, alpha=32
        ),
        layout=Layout(tp=2, pp=2, ep=4, etp=1),
        targets_written=True,
    ),
    "deepseek": Job(
        model="deepseek-v3",
        lora=CanonicalLoRA(target_modules=MLA, dim=32, alpha=32),
        layout=Layout(tp=8, pp=16, ep=64, etp=1),
        targets_written=True,
    ),
}

STAGES = Job(
    model="llama3-70b",
    lora=CanonicalLoRA(target_modules=TYPO[:4], dim=16, alpha=32),
    layout=Layout(tp=8, pp=4),
    targets_written=True,
)
"""Four stages that need less memory one after the other."""


def expanded_experts(plan: JobPlan, *, experts: int = 8) -> JobPlan:
    """Return `plan` with `experts` modules in place of every grouped linear of experts, as
    sequential experts would have them.
    """
    return replace(plan, rank_classes=tuple(_expanded(each, experts) for each in plan.rank_classes))


def _expanded(rank_class: RankClass, experts: int) -> RankClass:
    placements = []
    skipped = []
    for placement in rank_class.placements:
        places = _places(placement.module, experts)
        placements += [replace(placement, module=place) for place in places]
    for skip in rank_class.skipped:
        skipped += [replace(skip, module=place) for place in _places(skip.module, experts)]
        if skip.module.endswith(".experts"):
            parents = ["local_experts", *(f"local_experts.{number}" for number in range(experts))]
            skipped += [replace(skip, module=f"{skip.module}.{parent}") for parent in parents]
    return replace(rank_class, placements=tuple(placements), skipped=tuple(skipped))


def _places(module: str, experts: int) -> list[str]:
    stem, found, last = module.partition(".experts.")
    return [f"{stem}.experts.local_experts.{number}.{last}" for number in range(experts)] if found else [module]
