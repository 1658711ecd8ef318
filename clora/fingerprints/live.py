"""Fingerprint the adapters of a model that is spread over ranks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from clora.all_ranks import gather_objects
from clora.errors import FingerprintError
from clora.fingerprints.names import names_in_megatron
from clora.folders.fingerprint import Naming, digest_of_pair, dtype_name
from clora.hf_names import to_hf_rows
from clora.linears import chunks_of, layer_pattern, model_shape
from clora.sharding.checkpoint import is_first_copy
from clora.sharding.full_tensor import matrix_on
from clora.wrappers import adapted_modules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from clora.adapters import Adapter, Factor
    from clora.layer_pattern import LayerPattern
    from clora.linears import Model, ModelShape
    from clora.plan import Placement

_LAYER = re.compile(r"(decoder\.layers\.)\d+(?=\.)")
_LOCAL_EXPERT = re.compile(r"\.local_experts\.(\d+)(?=\.)")


def naming_of(model: Model) -> Naming:
    """Return the facts by which the rows of B get their names."""
    shape = model_shape(chunks_of(model)[0])
    return Naming(gated=shape.is_gated, output_gate=shape.heads if shape.has_output_gate else None)


class LivePairs(NamedTuple):
    """The pairs of the whole model."""

    digests: dict[str, str] | None
    """Name -> digest; None when the values of a factor do not fit into fp32."""
    dtypes: tuple[str, ...]
    """Names of the dtypes of all factors, sorted."""


def live_pairs(model: Model, weights: Mapping[Factor, torch.Tensor] | None = None) -> LivePairs:
    """Return the digests of all pairs in the whole model. All ranks must call this.

    The ranks of a tensor-parallel group take turns with the adapters: the rank whose turn it is
    gets the shards of one adapter from the others, hashes it and drops it. So each shard is sent at
    most once, none beyond its tensor-parallel group, and one whole pair is in memory at a time,
    with those of the rank's experts for grouped experts with a pair each. Copies on other
    data-parallel ranks are not looked at. The digests go to all ranks, 64 bytes a linear.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.
        weights: factor -> values to hash in place of its own weight, of its shape.
    """
    own: dict[str, str] = {}
    dtypes: set[str] = set()
    fits = True
    for turn, item in enumerate(_adapters(model)):
        factors = (item.adapter.linear_in, item.adapter.linear_out)
        if not is_first_copy(factors[0]):
            continue
        values = [factor.weight if weights is None else weights[factor] for factor in factors]
        a, b = (matrix_on(turn, factor, value) for factor, value in zip(factors, values, strict=True))
        dtypes |= set(map(dtype_name, values))
        if a is None or b is None or not fits:
            continue
        try:
            own |= _digests(item, a.cpu(), b.cpu())
        except FingerprintError:
            # Raised here, it would leave the other ranks of the group waiting.
            fits = False
    ranks = gather_objects((own if fits else None, dtypes))
    names = tuple(sorted({name for _, found in ranks for name in found}))
    if any(digests is None for digests, _ in ranks):
        return LivePairs(None, names)
    return LivePairs({name: digest for digests, _ in ranks for name, digest in (digests or {}).items()}, names)


class _Item(NamedTuple):
    """One adapter on this rank."""

    adapter: Adapter
    placement: Placement
    shape: ModelShape
    pattern: LayerPattern | None


def _adapters(model: Model) -> Iterator[_Item]:
    """Yield the adapters in an order that the ranks of a tensor-parallel group share."""
    for chunk in chunks_of(model):
        shape, pattern = model_shape(chunk), layer_pattern(chunk)
        for _, module in adapted_modules(chunk):
            for placement in module.placements:
                yield _Item(module.adapters[placement.part], placement, shape, pattern)


def _digests(item: _Item, a: torch.Tensor, b: torch.Tensor) -> dict[str, str]:
    """Return name -> digest of the linears that one adapter changes on this rank."""
    adapter, placement, shape, pattern = item
    module = placement.module
    if placement.global_layer is not None:
        module = _LAYER.sub(rf"\g<1>{placement.global_layer}", module, count=1)
    facts, first = placement.experts, 0
    expert: int | None = None
    if facts is not None:
        first = adapter.wiring.ep_rank * facts.num_local_experts
        if found := _LOCAL_EXPERT.search(module):
            expert = first + int(found[1])
            module = _LOCAL_EXPERT.sub("", module)
    matrices = [(expert, a, b)] if a.dim() == 2 else [(first + i, a[i], b[i]) for i in range(len(a))]
    found_digests: dict[str, str] = {}
    for number, own_a, own_b in matrices:
        for name, rows in names_in_megatron(
            module,
            placement.part,
            expert=number,
            gated=shape.is_gated,
            output_gate=shape.has_output_gate,
            pattern=pattern,
        ):
            found_digests[name] = digest_of_pair(name, own_a, to_hf_rows(own_b, rows, shape.heads), adapter.scale)
    return found_digests
