"""One layer of each kind at its true width, one after another, so that memory holds one layer at a
time. Pure numbers.

All routed experts of a layer are there, as windows on one pool of values where they are too many
(`expert_pool`). Of experts that are modules of their own, and not one grouped linear, as many are
built as fit; a token still chooses as many as in the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import CloraError
from clora_inspect.job.layer_ranges import fold
from clora_inspect.sources.definition import PER_LAYER, ModelDefinition
from clora_inspect.sources.pipeline_split import SPLIT_FIELDS
from clora_inspect.verify.model.limits import EXPERT_PARAMETERS
from clora_inspect.verify.model.randomness import switched_off
from clora_inspect.verify.small.layer_kinds import kinds_of
from clora_inspect.verify.small.shrink import expanded, explicit_targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.job.plan import JobPlan


class NotByLayerError(CloraError):
    """A job that cannot be verified layer by layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneLayer:
    """A model of one layer that stands for all layers of its kind."""

    definition: ModelDefinition
    layer: int
    """The job's layer that is built."""
    like: str
    """All layers of the kind, folded."""
    targets: tuple[tuple[str, ...], ...] | None
    said: tuple[str, ...] = ()


def one_of_each(definition: ModelDefinition, plan: JobPlan, *, dtype: str) -> Iterator[OneLayer]:
    """A one-layer model for every kind of layer, in the order of their first layers.

    Raises:
        NotByLayerError: a function's model, whose layers cannot be built one at a time from
            outside.
    """
    if definition.is_user_function:
        raise NotByLayerError(
            f"{definition.name} is a function that makes its own config: its layers cannot be built one at a time. Verify it with --size full."
        )
    fields: dict[str, Any] = {**definition.config, **definition.model}
    lists = {
        name: expanded(name, fields[name], fields["num_layers"]) for name in PER_LAYER if fields.get(name) is not None
    }
    kinds = kinds_of(plan, list(lists.values()))
    for kind in dict.fromkeys(kinds.values()):
        alike = [layer for layer, its in kinds.items() if its == kind]
        layer = alike[0]
        said: list[str] = []
        small: dict[str, Any] = {"num_layers": 1, "params_dtype": dtype, "vocab_size": 128, "mtp_num_layers": None}
        small |= switched_off(fields, said)
        for name, values in lists.items():
            small[name] = values[layer] if isinstance(fields[name], str) else [values[layer]]
        small |= _experts(fields, said)
        config = {name: value for name, value in definition.config.items() if name not in SPLIT_FIELDS}
        model = dict(definition.model)
        for name, value in small.items():
            if name in definition.model or name in definition.config:
                (model if name in definition.model else config)[name] = value
        yield OneLayer(
            definition=msgspec.structs.replace(definition, config=config, model=model, pipeline_splits={}),
            layer=layer,
            like=fold(alike),
            targets=explicit_targets(plan, [layer], [1]),
            said=tuple(said),
        )


def _experts(fields: dict[str, Any], said: list[str]) -> dict[str, Any]:
    experts = fields.get("num_moe_experts")
    if not experts:
        return {}
    width = fields.get("moe_ffn_hidden_size") or fields["ffn_hidden_size"]
    each = fields["hidden_size"] * width * (3 if fields.get("gated_linear_unit") else 2)
    everything = experts * each
    if fields.get("moe_grouped_gemm") and everything > EXPERT_PARAMETERS:
        said.append(
            f"all {experts} routed experts of a layer, at their true width; their weights, {everything * 4 / 1e9:.0f} GB in fp32, are windows on "
            "one pool of values."
        )
        return {}
    step = 2 * (fields.get("moe_router_num_groups") or 1)
    fewest = step * -(-2 * fields["moe_router_topk"] // step)
    kept = min(experts, max(fewest, EXPERT_PARAMETERS // each // step * step))
    if kept == experts:
        return {}
    said.append(
        f"{kept} of {experts} routed experts of a layer are in memory, at their true width "
        f"({each * 4 / 1e9:.2f} GB each in fp32): all have one shape."
    )
    return {"num_moe_experts": kept}
