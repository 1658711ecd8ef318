"""Build a model of the golden rows, plan it, and describe the differences from the golden files in
their format.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clora.canonical_lora import CanonicalLoRA
from clora.errors import CloraError
from clora.families.base.hf_config import HFConfig
from clora.fused import FUSED
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.definition import ModelDefinition, from_hf_config

if TYPE_CHECKING:
    from collections.abc import Iterable

    from golden_files import Row

    from clora.plan import Placement, Plan

Wrapped = dict[str, dict[str, Any]]
"""Path of a module -> `{"base", "wrapper", "adapters"}` as in the golden files."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Our result for a row of the reference: a plan, or the error instead of one."""

    base_params: int
    """Parameters counted on the built model; 0 if none is built."""
    plan: Plan | None
    error: Exception | None = None


def definition_of(family: str, config: dict[str, Any]) -> ModelDefinition:
    """Return the model of a golden config. It takes the path of a user's `config.json`."""
    return from_hf_config(family, HFConfig(origin=family, values=config["hf_config"]))


def layout_of(row: Row) -> Layout:
    tp, pp, ep, etp, world = row.layout
    return Layout(tp=tp, pp=pp, ep=ep, etp=etp, world_size=world)


def parameters(definition: ModelDefinition) -> int:
    """Return the number of parameters of the model on one rank."""
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.virtual import virtual_cluster, virtual_megatron

    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout()):
        (model,) = build_chunks(definition, Layout())
        return sum(param.numel() for param in model.parameters())


def outcomes(rows: list[Row], config: dict[str, Any]) -> list[Outcome]:
    """Return our results for the rows of one model, which is built once."""
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.virtual import virtual_cluster, virtual_megatron

    definition, layout = definition_of(rows[0].family, config), layout_of(rows[0])
    assert layout.model_world == layout.world
    try:
        definition.check(layout)
    except CloraError as error:
        return [Outcome(0, None, error) for _ in rows]
    with quiet(), virtual_megatron("meta"), virtual_cluster(layout, rows[0].rank):
        (model,) = build_chunks(definition, layout)
        base_params = sum(param.numel() for param in model.parameters())
        return [_outcome(row, base_params, model) for row in rows]


def _outcome(row: Row, base_params: int, model: Any) -> Outcome:
    try:
        return Outcome(base_params, CanonicalLoRA(**row.lora_args).plan(model))
    except CloraError as error:
        return Outcome(base_params, None, error)


def difference(row: Row, outcome: Outcome) -> dict[str, Any]:
    """Return where our plan differs from what the reference wrapped, folded over layers."""
    assert outcome.plan is not None, f"{row.name}: {outcome.error}"
    theirs, ours = recorded(row), planned(outcome.plan)
    found: dict[str, Any] = {
        "only_reference": _folded(theirs.keys() - ours.keys()),
        "only_ours": _folded(ours.keys() - theirs.keys()),
        "different": _folded(path for path in theirs.keys() & ours.keys() if theirs[path] != ours[path]),
    }
    if outcome.plan.trainable_params != row.trainable_params:
        found["trainable_params"] = [row.trainable_params, outcome.plan.trainable_params]
    if not outcome.base_params == outcome.plan.base_params == row.base_params:
        found["base_params"] = [row.base_params, outcome.base_params, outcome.plan.base_params]
    return {name: value for name, value in found.items() if value}


def _folded(paths: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(re.sub(r"\.\d+\.", ".{}.", path) for path in paths).items()))


def recorded(row: Row) -> Wrapped:
    """Return the modules that the reference wrapped, with one entry for each layer."""
    assert not any(entry["experts"] for entry in row.wrapped)
    return {
        entry["module"].format(layer): {name: entry[name] for name in ("base", "wrapper", "adapters")}
        for entry in row.wrapped
        for first, last in (entry["layers"] or [(0, 0)])
        for layer in range(first, last + 1)
    }


def planned(plan: Plan) -> Wrapped:
    """Return the modules that we would wrap, in the format of `recorded`. A canonical part without
    an adapter is None there.
    """
    wrapped: Wrapped = {}
    for placement in plan.placements:
        parts = FUSED[placement.module.rsplit(".", 1)[-1]] if placement.part else {}
        entry = wrapped.setdefault(
            placement.module,
            {
                "base": placement.base_class,
                "wrapper": placement.wrapper,
                "adapters": {f"adapter_{part}": None for part in parts},
            },
        )
        assert (entry["base"], entry["wrapper"]) == (placement.base_class, placement.wrapper)
        entry["adapters"][f"adapter_{placement.part}" if placement.part else "adapter"] = _adapter(placement)
    return wrapped


def _adapter(placement: Placement) -> dict[str, Any]:
    return {
        "cls": placement.adapter_class,
        "dim": placement.dim,
        "alpha": placement.alpha,
        "shapes": {"linear_in.weight": list(placement.a_shape), "linear_out.weight": list(placement.b_shape)},
    }
