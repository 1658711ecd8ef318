"""Refuse a tp, ep or etp that does not divide what it splits, and name sizes that work. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.errors import LayoutError, ModelError
from clora.limits import LARGEST_GROUPED_EXPERTS, LARGEST_SINGLE_EXPERTS
from clora_inspect.job.layout import UNSET_ETP

if TYPE_CHECKING:
    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition

VOCABULARY_UNIT = 128
"""Megatron-LM's default of `--make-vocab-size-divisible-by`."""

LARGEST_SHOWN_BIT = 7
"""A message that lists sizes of an axis ends at 128."""


def check_tensor_parallel(definition: ModelDefinition, layout: Layout) -> None:
    """Refuse a tp that does not divide a size of the model.

    Raises:
        LayoutError: the size, and values of tp that work.
    """
    fault = _tensor_parallel_fault(definition, layout)
    if fault is None:
        return
    vocabulary, unit = definition.model.get("vocab_size"), VOCABULARY_UNIT * layout.tp
    padding = ""
    if "vocab_size" in fault and isinstance(vocabulary, int):
        rows = -(-vocabulary // unit) * unit
        padding = (
            f" Megatron pads the vocabulary to a multiple of {VOCABULARY_UNIT} * tp, {rows} rows here: "
            f"--set model.vocab_size={rows}"
        )
    raise LayoutError(f"{fault} {_sizes_that_work(definition, layout, 'tp')}{padding}")


def _tensor_parallel_fault(definition: ModelDefinition, layout: Layout) -> str | None:
    """Say which size of the model tp does not divide; None when it divides all."""
    fields, tp = definition.config | definition.model, layout.tp
    split = {
        "num_attention_heads": "query heads",
        "ffn_hidden_size": "the width of the MLP",
        "moe_shared_expert_intermediate_size": "the width of the shared expert",
        "vocab_size": "the vocabulary",
        "linear_num_key_heads": "key heads of the gated delta nets",
        "linear_num_value_heads": "value heads of the gated delta nets",
        "mamba_num_heads": "Mamba heads",
        "mamba_num_groups": "Mamba groups",
    }
    pattern = definition.model.get("hybrid_override_pattern") or ""
    # A model of Mamba layers alone has no attention and no MLP, even if its config has their sizes.
    if definition.kind.has_layer_pattern and not set(pattern) - {"M"}:
        split = {name: what for name, what in split.items() if name.startswith(("mamba_", "vocab"))}
    for name, what in split.items():
        size = fields.get(name)
        if size and size % tp:
            return f"tp = {tp} does not divide {name} = {size} ({what}) of {definition.name}."
    # With fewer key-value groups than ranks, megatron-core gives several ranks a copy of one group.
    groups = fields.get("num_query_groups")
    if groups and groups % tp and tp % groups:
        return (
            f"tp = {tp} and num_query_groups = {groups} of {definition.name}: neither divides the other, so key-value "
            "groups cannot be spread."
        )
    if definition.layers.has_whole_qk_norms and groups and groups < tp:
        return (
            f"tp = {tp} and num_query_groups = {groups} of {definition.name}: the norm over all key heads needs whole "
            "groups on every rank."
        )
    return None


def check_experts(definition: ModelDefinition, layout: Layout) -> None:
    """Refuse an ep or etp that cannot spread the experts, and too many experts on a rank.

    Raises:
        LayoutError: the size, and values of the axis that work.
        ModelError: no rank can build as many experts.
    """
    experts = definition.config.get("num_moe_experts")
    etp = layout.with_etp(has_experts=bool(experts)).expert_tp
    for axis, size in (("ep", layout.ep), ("etp", etp)):
        if size > 1 and not experts:
            raise LayoutError(f"{axis} = {size} spreads experts, and {definition.name} has none. Leave out --{axis}.")
    layers = definition.config["num_layers"]
    grouped = bool(definition.config.get("moe_grouped_gemm"))
    largest = LARGEST_GROUPED_EXPERTS if grouped else LARGEST_SINGLE_EXPERTS
    if experts and layers * (experts // layout.ep or 1) > largest:
        raise ModelError(
            f"{definition.name} has {layers:,} layers of {experts:,} experts, and each rank of ep = {layout.ep} would "
            f"build {layers * (experts // layout.ep):,} of them: {largest:,} is the most"
            + (". Use a larger --ep." if grouped else " of experts that are not grouped. Use a larger --ep.")
        )
    for axis in ("ep", "etp"):
        fault = _expert_fault(definition, layout, axis)
        if fault is not None:
            write = " Write --etp 1." if axis == "etp" and layout.etp is None else ""
            raise LayoutError(f"{fault} {_sizes_that_work(definition, layout, axis)}{write}")


def _expert_fault(definition: ModelDefinition, layout: Layout, axis: str) -> str | None:
    """Say which size of the experts `axis`, ep or etp, does not divide; None when there is none."""
    experts = definition.config.get("num_moe_experts")
    if not experts:
        return None
    if axis == "ep":
        if experts % layout.ep:
            return f"ep = {layout.ep} does not divide num_moe_experts = {experts} of {definition.name}."
        return None
    etp, width = layout.expert_tp, definition.config.get("moe_ffn_hidden_size")
    written = f"etp = {etp}" if layout.etp is not None else f"etp = {etp} ({UNSET_ETP})"
    if etp > 1 and definition.config.get("add_bias_linear"):
        return f"{written}: the experts of {definition.name} have biases, which megatron-core builds for etp = 1 only."
    if width and width % etp:
        return f"{written} does not divide moe_ffn_hidden_size = {width} of {definition.name}."
    return None


def _sizes_that_work(definition: ModelDefinition, layout: Layout, axis: str) -> str:
    """Say which sizes of `axis` the model can have, all else as it is: powers of two, as real jobs
    have them.
    """
    sizes = []
    for bit in range(LARGEST_SHOWN_BIT + 1):
        try:
            changed = msgspec.structs.replace(layout, **{axis: 1 << bit})
        except LayoutError:  # the world, or sp, does not allow it
            continue
        # With an etp that is not set, tp splits the experts as well.
        faults = [_expert_fault(definition, changed, "ep" if axis == "ep" else "etp")]
        if axis == "tp":
            faults.append(_tensor_parallel_fault(definition, changed))
        if not any(faults):
            sizes.append(str(1 << bit))
    if not sizes:
        return f"No other {axis} fits this model and the rest of its layout."
    return f"It can be {', '.join(sizes)}." if len(sizes) > 1 else f"It can only be {sizes[0]}."
