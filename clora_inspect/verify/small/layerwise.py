"""Choose the models of `--size layer`: one layer of each kind at its true width, one after another,
so that memory holds one layer at a time. Pure numbers.

All routed experts of a layer are built. If they do not fit into memory, grouped experts become
windows on one pool of values (`expert_pool`). Experts that are modules of their own cannot share
memory: as many are built as fit, and a token still chooses as many as in the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import CloraError
from clora_inspect.job.layer_ranges import fold
from clora_inspect.sources.definition import PER_LAYER, ModelDefinition
from clora_inspect.sources.pipeline_split import SPLIT_FIELDS
from clora_inspect.verify.model.limits import EXPERT_PARAMETERS
from clora_inspect.verify.model.randomness import switched_off
from clora_inspect.verify.small.layer_kinds import built_as, kinds_of
from clora_inspect.verify.small.shrink import expanded, explicit_targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clora_inspect.job.plan import JobPlan


class NotByLayerError(CloraError):
    """The job cannot be verified layer by layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneLayer:
    """A model of one layer that stands for all layers of its kind."""

    definition: ModelDefinition
    layer: int
    """Number of the job's layer that is built."""
    built: tuple[int, ...]
    """The numbers that megatron-core gives it: two where attention and MLP are layers."""
    alike: str
    """All layers of the kind, folded, such as `{3..60}`."""
    targets: tuple[tuple[str, ...], ...] | None
    """Explicit targets, where the job's name layers by number."""
    changes: tuple[str, ...] = ()
    """A sentence for each difference from the job's layer."""


def one_of_each(definition: ModelDefinition, plan: JobPlan, *, dtype: str) -> Iterator[OneLayer]:
    """Yield a one-layer model for every kind of layer, in the order of their first layers.

    Raises:
        NotByLayerError: the model is a user's function, whose layers cannot be built one at a time
            from outside.
    """
    if definition.is_user_function:
        raise NotByLayerError(
            f"{definition.name} is a function that makes its own config: its layers cannot be built one at a time. "
            "Verify it with --size full."
        )
    fields: dict[str, Any] = {**definition.config, **definition.model}
    per_layer = {
        name: expanded(name, fields[name], fields["num_layers"]) for name in PER_LAYER if fields.get(name) is not None
    }
    blocks = definition.kind.blocks_per_layer
    kinds = kinds_of(plan, list(per_layer.values()), blocks)
    off, off_changes = switched_off(fields)
    experts, expert_changes = _experts(fields)
    for kind in dict.fromkeys(kinds.values()):
        alike = [layer for layer, own in kinds.items() if own == kind]
        layer = alike[0]
        small = {"num_layers": 1, "params_dtype": dtype, "vocab_size": 128, "mtp_num_layers": None, **off}
        small |= {name: _entry(fields[name], values, layer) for name, values in per_layer.items()}
        yield OneLayer(
            definition=_with_fields(definition, small | experts),
            layer=layer,
            alike=fold(alike),
            built=built_as([layer], blocks),
            targets=explicit_targets(plan, built_as([layer], blocks), [blocks]),
            changes=(*off_changes, *expert_changes),
        )


def _entry(written: Any, values: Sequence[Any], layer: int) -> Any:
    """Return a per-layer field for one layer: a letter of a pattern, or a list of one."""
    return values[layer] if isinstance(written, str) else [values[layer]]


def _with_fields(definition: ModelDefinition, fields: Mapping[str, Any]) -> ModelDefinition:
    """Return the definition with those of `fields` that it has, on one pipeline stage."""
    config = {name: value for name, value in definition.config.items() if name not in SPLIT_FIELDS}
    model = dict(definition.model)
    for name, value in fields.items():
        if name in definition.model:
            model[name] = value
        elif name in definition.config:
            config[name] = value
    return msgspec.structs.replace(definition, config=config, model=model, pipeline_splits={})


def _experts(fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that make a layer's experts fit into memory, and a sentence for what is
    done.
    """
    experts = fields.get("num_moe_experts")
    if not experts:
        return {}, []
    width = fields.get("moe_ffn_hidden_size") or fields["ffn_hidden_size"]
    # fc1 and fc2 have one matrix each; a gate makes fc1 twice as large.
    each = fields["hidden_size"] * width * (3 if fields.get("gated_linear_unit") else 2)
    everything = experts * each
    if fields.get("moe_grouped_gemm") and everything > EXPERT_PARAMETERS:
        change = (
            f"all {experts} routed experts of a layer, at their true width; their weights, "
            f"{everything * 4 / 1e9:.0f} GB in fp32, are windows on one pool of values."
        )
        return {}, [change]
    # Router groups need equal numbers of experts, and the router scores a group by its two best. A
    # router with something to choose needs twice as many as a token chooses.
    step = 2 * (fields.get("moe_router_num_groups") or 1)
    fewest = step * -(-2 * fields["moe_router_topk"] // step)
    kept = min(experts, max(fewest, EXPERT_PARAMETERS // each // step * step))
    if kept == experts:
        return {}, []
    change = (
        f"{kept} of {experts} routed experts of a layer are in memory, at their true width "
        f"({each * 4 / 1e9:.2f} GB each in fp32): all have one shape."
    )
    return {"num_moe_experts": kept}, [change]
