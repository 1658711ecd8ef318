"""The page of one module (`clora-inspect explain`): why it is adapted or not, its shapes, the ranks
that hold it and its Hugging Face name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.hf_names import NoHFLinear, hf_linears
from clora.plan import Fate, Placement
from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.plan.rows import last_name
from clora_inspect.formats.plan.unadapted import targets_for, why_not_adaptable
from clora_inspect.formats.quantities import count
from clora_inspect.job.layout import UNSET_ETP
from clora_inspect.job.module_path import global_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.plan import Skip
    from clora_inspect.formats.plan.module_search import Found
    from clora_inspect.job.plan import JobPlan, RankClass

SHOWN_NAMES = 3
"""Number of Hugging Face linears that are listed; an adapter of grouped experts stands for hundreds
of them.
"""


def render(plan: JobPlan, found: list[Found], look: Look | None = None) -> str:
    """Return the page, ending in a newline, for the entries that `find` returned (at least one)."""
    look = look or Look()
    ranks, first = found[0]
    path = global_path(first.module, first.global_layer)
    class_name = first.base_class if isinstance(first, Placement) else first.class_name
    lines = [look.paint(f"{path} {look.glyphs.dot} {class_name}", Style.BOLD)]
    lines += [look.paint(f"  {line}") for line in _whereabouts(ranks, first, path)]
    for _, one in found:
        lines.append("")
        lines += [look.paint(f"  {line}") for line in _reasons(plan, one, look)]
    return "".join(f"{line}\n" for line in lines)


def _whereabouts(ranks: RankClass, one: Placement | Skip, path: str) -> Iterator[str]:
    members = ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in ranks.members)
    chunk = f", chunk {one.chunk}" if ranks.vpp[1] else ""
    yield f"on rank{'s' if ranks.count > 1 else ''} {members}: pipeline stage {ranks.pp}{chunk}"
    # On later pipeline stages layers are numbered from 0 again, and targets see those numbers.
    if one.module != path:
        yield f"its name there, which targets are compared with: {one.module}"


def _reasons(plan: JobPlan, one: Placement | Skip, look: Look) -> Iterator[str]:
    return _adapted(plan, one, look) if isinstance(one, Placement) else _not_adapted(plan, one)


def _adapted(plan: JobPlan, placement: Placement, look: Look) -> Iterator[str]:
    part = f"[{placement.part}] " if placement.part else ""
    if placement.target is None:
        yield f"{part}is adapted: target_modules is empty, and no entry of exclude_modules names it"
    else:
        number = (plan.lora.target_modules or ()).index(placement.target)
        yield f'{part}is adapted: target_modules[{number}] "{placement.target}" selects it'
    if together := _parts_together(plan, placement):
        yield f"  it is adapted as a whole: {', '.join(together[:-1])} and {together[-1]} share one adapter"
    for factor, whole, local, axes, dims in (
        ("A", placement.a_global_shape, placement.a_shape, placement.a_axes, ("rank", "in")),
        ("B", placement.b_global_shape, placement.b_shape, placement.b_axes, ("out", "rank")),
    ):
        # Grouped experts hold their factors in one tensor, with the expert as the first dim.
        named = ("experts", *dims) if len(whole) == 3 else dims
        split = [f"{dim} over {axis}" for dim, axis in zip(named, axes, strict=True) if axis]
        on_rank = f" {look.glyphs.arrow} {look.shape(local)} on a rank ({', '.join(split)})" if local != whole else ""
        yield f"  {factor}: {look.shape(whole)}{on_rank}"
    scale = f"rank {placement.dim}, alpha {placement.alpha:g}, scale {placement.scale:g}"
    yield f"  {scale}, {count(placement.model_params)} parameters"
    if placement.experts:
        facts = placement.experts
        shared = "a pair for each expert" if facts.per_expert else "one pair for all of them"
        yield f"  {facts.num_experts} routed experts, {facts.num_local_experts} on a rank: {shared}"
        yield from (f"  {note}" for note in plan.model.notes or () if UNSET_ETP in note)
    yield f"  Hugging Face: {_hf_name(plan, placement)}"


def _parts_together(plan: JobPlan, placement: Placement) -> list[str]:
    """Return the parts of a fused linear that has one adapter; empty for any other linear."""
    parts = list(FUSED.get(last_name(placement.module), ())) if placement.part is None else []
    gated = plan.towers.of(placement.module).gated
    if gated is None:
        gated = bool((plan.model.config or {}).get("gated_linear_unit"))
    return parts if gated or "gate" not in parts else []


def _hf_name(plan: JobPlan, placement: Placement) -> str:
    model_type = plan.model.hf_model_type
    # A model that a function builds has no Hugging Face type, and its linears no names there.
    if not model_type:
        return "not known for a model made by a function"
    linears = hf_linears(placement, model_type, pattern=plan.pattern)
    if isinstance(linears, NoHFLinear):
        return f"none: {linears.reason}"
    shown = ", ".join(linear.module for linear in linears[:SHOWN_NAMES])
    return shown + (f" and {count(len(linears) - SHOWN_NAMES)} more" if len(linears) > SHOWN_NAMES else "")


def _not_adapted(plan: JobPlan, skip: Skip) -> Iterator[str]:
    part = f"[{skip.part}] " if skip.part else ""
    if skip.reason is Fate.EXCLUDED:
        yield f'{part}is excluded: exclude_modules has "{skip.by}"'
    elif skip.reason is Fate.UNMATCHED:
        targets = ", ".join(plan.lora.target_modules or ()) or "there is none"
        yield f"{part}is unmatched: no target selects it ({targets})"
        yield f"  to adapt it add: {', '.join(targets_for(skip))}"
    elif skip.reason is Fate.NOT_ADAPTABLE:
        yield why_not_adaptable(skip)
    else:
        yield "has no parameters of its own: it is a container, or computes without any"
    if skip.params:
        yield f"  {count(skip.params)} parameters of its own on a rank"
