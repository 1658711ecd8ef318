"""Find the modules of a plan that a user names: by their path, by the end of it, or by the path in
the Hugging Face model.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from clora.hf_names import hf_linears
from clora.layer_pattern import hybrid_path
from clora.patterns import CANONICAL_OF_HF, canonical_names
from clora.plan import Placement
from clora_inspect.job.module_path import folded, global_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.plan import Skip
    from clora_inspect.job.plan import JobPlan, RankClass

Found = tuple["RankClass", "Placement | Skip"]
"""An entry of the plan, and the ranks that hold it."""

# PEFT puts the first before every path of its files, and the second behind it.
_PEFT = re.compile(r"^base_model\.model\.|\.(lora_[AB](\.\w+)?\.)?weight$")
_HF_LAYER = re.compile(r"\.(\d+)\.")


def find(plan: JobPlan, wanted: str) -> list[Found]:
    """Return the entries of the plan for one module, each with the ranks that hold it.

    Args:
        plan: the plan.
        wanted: the module's path with its layer's number in the whole model, or the end of it if no
            other module ends so. It may end in a part, `...linear_qkv[q]`, or in a canonical name,
            `...linear_q`. Or its path in the Hugging Face model, `model.layers.0.self_attn.q_proj`.
    """
    entries = list(_entries(plan))
    exact = [each for each in entries if wanted in _names(each[1])]
    if exact:
        return exact
    by_hf_path = [each for each in entries if _has_hf_path(plan, each[1], _PEFT.sub("", wanted))]
    if by_hf_path:
        return by_hf_path
    ending = [each for each in entries if any(name.endswith(f".{wanted}") for name in _names(each[1]))]
    return ending if len({_path(one) for _, one in ending}) == 1 else []


def similar(plan: JobPlan, wanted: str) -> str:
    """Return a sentence with the modules that `wanted`, which `find` has not found, may mean."""
    moved = hybrid_path(wanted)
    if plan.pattern and plan.pattern.is_of_pairs and moved in paths(plan):
        return f"In a HybridModel attention and MLP are layers of their own: it is {moved}"
    last = _PEFT.sub("", wanted).rsplit(".", 1)[-1]
    # The names by which megatron-core or Hugging Face call it in any layer.
    names = {wanted, last, *CANONICAL_OF_HF.get(last, ())}
    alike = [
        name
        for _, one in _entries(plan)
        for name in sorted(_names(one))
        if any(name == each or name.endswith(f".{each}") for each in names)
    ]
    # Not the parts with brackets: they are other spellings of the canonical names.
    rows = folded(dict.fromkeys(name for name in alike if not name.endswith("]")))
    if rows:
        shown = ", ".join(path for path, _ in rows[:3]) + (" and others" if len(rows) > 3 else "")
        return f"Name one module of: {shown}. For example: {_first(alike)}"
    near = get_close_matches(wanted, paths(plan), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else "Layers are numbered through the whole model."


def paths(plan: JobPlan) -> list[str]:
    """Return the paths of all modules of the whole model."""
    return list(dict.fromkeys(_path(one) for _, one in _entries(plan)))


def _entries(plan: JobPlan) -> Iterator[Found]:
    for ranks in plan.rank_classes:
        modules: tuple[Placement | Skip, ...] = (*ranks.placements, *ranks.skipped)
        for one in modules:
            yield ranks, one


def _path(one: Placement | Skip) -> str:
    return global_path(one.module, one.global_layer)


def _names(one: Placement | Skip) -> set[str]:
    """Return the path of a module, and the paths by which its canonical parts are called."""
    path = _path(one)
    # An entry without a part stands for the whole fused linear: any of its parts finds it.
    parts = {one.part} if one.part else set(canonical_names(path))
    names = {path, *(name for part, name in canonical_names(path).items() if part in parts)}
    return names | {f"{path}[{part}]" for part in parts}


def _has_hf_path(plan: JobPlan, one: Placement | Skip, wanted: str) -> bool:
    if "." not in wanted and wanted != "lm_head":
        return False
    model_type = plan.model.hf_model_type
    if isinstance(one, Placement) and model_type:
        linears = hf_linears(one, model_type, pattern=plan.pattern)
        return isinstance(linears, tuple) and any(hf.module == wanted for hf in linears)
    return _may_be(one, wanted, plan)


def _may_be(one: Placement | Skip, wanted: str, plan: JobPlan) -> bool:
    """Return whether a module without an adapter, of which no family names the Hugging Face path,
    has the layer, the name and the place in its layer that `wanted` has.
    """
    layer, last = _HF_LAYER.search(wanted), wanted.rsplit(".", 1)[-1]
    bare = {name.rsplit(".", 1)[-1] for name in _names(one)}
    if not bare.intersection(CANONICAL_OF_HF.get(last, ())):
        return False
    number = one.global_layer
    if number is not None and plan.pattern and plan.pattern.is_of_pairs:
        number //= 2
    if (int(layer[1]) if layer else None) != number:
        return False
    routed = "experts" in one.module and "shared" not in one.module
    return routed == ("experts" in wanted and "shared" not in wanted) and ("shared" in one.module) == (
        "shared" in wanted
    )


def _first(names: list[str]) -> str:
    """Return the name with the fewest characters, the first of several."""
    return min(names, key=len)
