"""Adapters in a live model, found by the names of parameters alone, whichever implementation made
them (`job.adapter_names`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clora_inspect.job.adapter_names import WRAPPED, factors
from clora_inspect.verify.model.axes import place_on
from clora_inspect.verify.model.expert_pool import numbered_weights
from clora_inspect.verify.model.packing import PackedRow, delta_net_shares, fc1_rows, mamba_shares, on_rank, qkv_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from clora.plan import Placement

SiteKey = tuple[int, str, str]
"""Chunk, module path and canonical part ("" for a linear that is adapted as a whole)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One adapter in a live model."""

    chunk: int
    module: str
    part: str | None
    a: nn.Parameter
    b: nn.Parameter
    placement: Placement | None = None
    """The plan's placement; None for an adapter that is not planned."""
    shares: tuple[int, ...] = (1,)
    """Relative sizes of the sections of B's rows. There are several where the base packs them and
    is adapted as a whole, such as gate and up; each rank has a part of every one.
    """

    @property
    def key(self) -> SiteKey:
        """Key that a site and its placement have in common."""
        return self.chunk, self.module, self.part or ""

    @property
    def at(self) -> str:
        """Path and canonical part: `decoder.layers.3.mlp.linear_fc1[gate]`."""
        return f"{self.module}[{self.part}]" if self.part else self.module


def is_adapter(name: str) -> bool:
    """Return whether a parameter of that name belongs to an adapter."""
    return ".adapter." in name


def base_name(name: str) -> str:
    """Return a base parameter's name without the part that a wrapper adds."""
    return name.replace(WRAPPED, "")


def parameters_of(chunks: Sequence[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    """Return name and tensor of every parameter of all chunks. With several chunks, the chunk's
    number and a colon stand before the name.
    """
    many = len(chunks) > 1
    return [
        (f"{number}:{name}" if many else name, parameter)
        for number, chunk in enumerate(chunks)
        for name, parameter in chunk.named_parameters()
    ]


def placement_key(placement: Placement) -> SiteKey:
    """Return the key of the site that the placement plans."""
    return placement.chunk, placement.module, placement.part or ""


def sites_of(chunks: Sequence[nn.Module], placements: Iterable[Placement] = ()) -> list[Site]:
    """Return all adapters of one rank's model, in the model's order."""
    planned = {placement_key(placement): placement for placement in placements}
    return [
        Site(
            chunk=number,
            module=module,
            part=part,
            a=pair["in"],
            b=pair["out"],
            placement=planned.get((number, module, part or "")),
            shares=(1,) if part else _shares(chunk, module),
        )
        for number, chunk in enumerate(chunks)
        # Duplicates are kept, so that an adapter that borrows another's factor is found as well.
        for (module, part), pair in factors(chunk.named_parameters(remove_duplicate=False)).items()
        if pair.keys() == {"in", "out"}
    ]


def _shares(chunk: nn.Module, module: str) -> tuple[int, ...]:
    names = module.split(".")
    if names[-1] == "linear_fc1" and _is_gated(chunk, module):
        return 1, 1
    if names[-1] != "in_proj":
        return (1,)
    config = getattr(base_of(chunk, module), "config", None)
    if names[-2] == "mixer":
        return mamba_shares(config)
    return delta_net_shares(config) if getattr(config, "linear_num_value_heads", None) else (1,)


def _is_gated(chunk: nn.Module, module: str) -> bool:
    # A user's own linear may be called linear_fc1 and have no config.
    config = getattr(base_of(chunk, module), "config", None)
    return bool(getattr(config, "gated_linear_unit", False))


def base_of(chunk: nn.Module, module: str) -> nn.Module:
    """Return the base linear at `module`, inside its wrapper where it has one."""
    found = chunk.get_submodule(module)
    return dict(found.named_children()).get(WRAPPED[1:], found)


def weights_of(chunk: nn.Module, module: str) -> list[nn.Parameter]:
    """Return the weight of a base linear, or those of grouped experts in their order. Empty for an
    output layer that borrows the embedding's weight.
    """
    base = base_of(chunk, module)
    weight = dict(base.named_parameters(recurse=False)).get("weight")
    if weight is None:
        return numbered_weights(base)
    # megatron-core marks a borrowed weight with this attribute; other weights do not have it.
    return [] if getattr(weight, "shared_embedding", False) else [weight]


def rows_here(chunk: nn.Module, placement: Placement) -> list[PackedRow] | None:
    """Return the rows of this rank's output of a fused linear; None for a linear that is adapted as
    a whole.
    """
    if placement.part is None:
        return None
    linear: Any = base_of(chunk, placement.module)
    rank, ranks = place_on("etp" if "etp" in placement.b_axes else "tp")
    if placement.part in ("gate", "up"):
        return on_rank(fc1_rows(rows=linear.weight.shape[0] * ranks, ranks=ranks), rank, ranks)
    config = linear.config
    rows = qkv_rows(
        heads=config.num_attention_heads,
        groups=config.num_query_groups,
        channels=config.kv_channels,
        gate=config.attention_output_gate,
    )
    return on_rank(rows, rank, ranks)
