"""Where adapters really are in a model: found by the names of parameters alone, whichever
implementation made them.

Canonical LoRA's parameter names are a contract between implementations:
`...linear_qkv.adapter.adapter_q.linear_in.weight` is the A of the q part,
`...linear_proj.adapter.linear_out.weight` the B of a linear adapted as a whole. Everything else
here is arithmetic on the tensors with those names, so that it can be held against what an
implementation computes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.verify.model.axes import group_of, place_on
from clora_inspect.verify.model.expert_pool import add_when_used, is_window
from clora_inspect.verify.model.packing import Row, fc1_rows, on_rank, qkv_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from clora.plan import Placement

_FACTOR = re.compile(
    r"(?P<module>.+?)(?:\.to_wrap)?\.adapter(?:\.adapter_(?P<part>\w+))?\.linear_(?P<factor>in|out)\.weight"
)
WRAPPED = ".to_wrap"
"""What some implementations put between a module's path and its parameters' names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One adapter in a live model."""

    chunk: int
    module: str
    part: str | None
    a: nn.Parameter
    b: nn.Parameter
    placement: Placement | None = None
    """What the plan says of it; None for one that is not planned."""
    is_gate_and_up: bool = False
    """Beside a gated `linear_fc1` that is adapted as a whole: B has gate rows and up rows, and each
    rank a part of both.
    """

    @property
    def key(self) -> tuple[int, str, str]:
        """Chunk, module and part: what a placement and a site have in common."""
        return self.chunk, self.module, self.part or ""

    @property
    def at(self) -> str:
        """Path and canonical part in one word."""
        return f"{self.module}[{self.part}]" if self.part else self.module


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return ".adapter." in name


def base_name(name: str) -> str:
    """A base parameter's name without what a wrapper puts into it."""
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


def placement_key(placement: Placement) -> tuple[int, str, str]:
    """As `Site.key`."""
    return placement.chunk, placement.module, placement.part or ""


def sites_of(chunks: Sequence[nn.Module], placements: Iterable[Placement] = ()) -> list[Site]:
    """All adapters of one rank's model, in its order."""
    planned = {placement_key(placement): placement for placement in placements}
    return [
        Site(
            chunk=number,
            module=module,
            part=part,
            a=factors["in"],
            b=factors["out"],
            placement=planned.get((number, module, part or "")),
            is_gate_and_up=part is None and module.endswith("linear_fc1") and _is_gated(chunk, module),
        )
        for number, chunk in enumerate(chunks)
        for (module, part), factors in _factors(chunk).items()
        if factors.keys() == {"in", "out"}
    ]


def _factors(chunk: nn.Module) -> dict[tuple[str, str | None], dict[str, nn.Parameter]]:
    found: dict[tuple[str, str | None], dict[str, nn.Parameter]] = {}
    # Shared parameters are listed under each of their names: an adapter that borrows another's
    # factor is still there.
    for name, parameter in chunk.named_parameters(remove_duplicate=False):
        if (match := _FACTOR.fullmatch(name)) is not None:
            found.setdefault((match["module"], match["part"]), {})[match["factor"]] = parameter
    return found


def _is_gated(chunk: nn.Module, module: str) -> bool:
    config = getattr(base_of(chunk, module), "config", None)
    return bool(getattr(config, "gated_linear_unit", False))


@dataclass(frozen=True, slots=True)
class Factors:
    """A and B of one adapter on this rank, taken out of the model, and what the plan says of it. No
    gradients.
    """

    placement: Placement
    a: torch.Tensor
    b: torch.Tensor


def factors_of(sites: Iterable[Site]) -> list[Factors]:
    """Copies of all planned adapters' factors."""
    return [
        Factors(site.placement, site.a.detach().clone(), site.b.detach().clone())
        for site in sites
        if site.placement is not None
    ]


def rows_here(chunk: nn.Module, module: str, part: str | None, placement: Placement | None) -> list[Row] | None:
    """The rows of this rank's output of a fused linear, by canonical part; None for one that is
    adapted as a whole.
    """
    if part is None:
        return None
    linear: Any = base_of(chunk, module)
    config = linear.config
    rank, ranks = place_on("etp" if placement is not None and "etp" in placement.b_axes else "tp")
    if part in ("gate", "up"):
        rows = fc1_rows(rows=linear.weight.shape[0] * ranks, ranks=ranks)
    else:
        rows = qkv_rows(
            heads=config.num_attention_heads,
            groups=config.num_query_groups,
            channels=config.kv_channels,
            gate=bool(getattr(config, "attention_output_gate", False)),
        )
    return on_rank(rows, rank, ranks)


def base_of(chunk: nn.Module, module: str) -> nn.Module:
    """The base linear at `module`, inside its wrapper where there is one."""
    found: Any = chunk.get_submodule(module)
    return found._modules.get("to_wrap") or found  # type: ignore[no-any-return]  # noqa: SLF001


@torch.no_grad()
def fold(chunks: Sequence[nn.Module], factors: Iterable[Factors]) -> list[str]:
    """Add every adapter's `alpha / dim B A` to this rank's base weights, by the definition of LoRA
    and megatron-core's packing.

    Called on all ranks of an axis together: the factor that is split the other way than the weight
    is gathered.

    Args:
        chunks: a base model without adapters.
        factors: of the adapters.

    Returns:
        The adapters that have no weight to be added to: an output layer that borrows the
        embedding's.
    """
    left_out = []
    for each in factors:
        placement = each.placement
        weights = weights_of(chunks[placement.chunk], placement.module)
        if not weights:
            left_out.append(placement.at)
            continue
        if is_window(weights[0]):
            _fold_when_used(chunks[placement.chunk], each, weights)
            continue
        for number, weight in enumerate(weights):
            rows, delta = delta_of(chunks[placement.chunk], each, number, weight)
            if rows is None:
                weight.add_(delta.to(weight.dtype))
            else:
                weight.index_add_(0, rows, delta.to(weight.dtype))
    return left_out


def _fold_when_used(chunk: nn.Module, factors: Factors, weights: Sequence[nn.Parameter]) -> None:
    """The same for experts that share memory, whose weights are merged one at a time as tokens
    reach them.
    """
    linear = base_of(chunk, factors.placement.module)

    def of_expert(number: int) -> torch.Tensor:
        return delta_of(chunk, factors, number, weights[number])[1]

    shared = of_expert(0) if factors.a.dim() == 2 and factors.b.dim() == 2 else None
    for number in range(len(weights)):
        add_when_used(linear, number, partial(of_expert, number) if shared is None else lambda: shared)


def weights_of(chunk: nn.Module, module: str) -> list[nn.Parameter]:
    """The weight of a base linear, or those of grouped experts in their order; empty where it has
    none of its own.
    """
    own = dict(base_of(chunk, module).named_parameters(recurse=False))
    if (weight := own.get("weight")) is not None:
        return [] if getattr(weight, "shared_embedding", False) else [weight]
    numbered = sorted((int(name[6:]), value) for name, value in own.items() if re.fullmatch(r"weight\d+", name))
    return [value for _, value in numbered]


def delta_of(
    chunk: nn.Module, factors: Factors, expert: int, weight: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Rows of this rank's weight that an adapter adds to (None for all of them), and what it adds
    there.
    """
    placement = factors.placement
    a, b = whole_along(factors.a, placement.a_axes, -2), factors.b
    if placement.part is not None or b.shape[-2] != weight.shape[0]:
        b = whole_along(b, placement.b_axes, -2)
    if a.dim() == 3:
        a, b = a[expert], b[expert]
    wide = torch.promote_types(weight.dtype, torch.float32)
    product = placement.alpha / placement.dim * (b.to(wide) @ a.to(wide))
    rows = rows_here(chunk, placement.module, placement.part, placement)
    if rows is None:
        return None, product
    mine = [(here, number) for here, (part, number) in enumerate(rows) if part == placement.part]
    here = torch.tensor([row for row, _ in mine], dtype=torch.long, device=weight.device)
    of_part = torch.tensor([number for _, number in mine], dtype=torch.long, device=weight.device)
    return here, product[of_part]


def whole_along(factor: torch.Tensor, axes: Sequence[str | None], dim: int) -> torch.Tensor:
    """The factor with all ranks' parts of one dim."""
    axis = axes[dim] if len(axes) >= -dim else None
    group = group_of(axis)
    if group is None or group.size() == 1:
        return factor
    from torch import distributed

    parts = [torch.empty_like(factor) for _ in range(group.size())]
    distributed.all_gather(parts, factor.contiguous(), group=group)
    return torch.cat(parts, dim)
