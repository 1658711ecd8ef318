"""Adapters as Hugging Face PEFT adapter folders, both ways, from and to any parallel layout.

    report = export_hf(model, "my-adapter", "path/to/Llama-3.1-8B")   # on every rank;
    report.left_out says what is not in it import_hf(model, "my-adapter", "path/to/Llama-3.1-8B")
    # into a model adapted alike, on any layout

`clora.hf_names` says which linears of the Hugging Face model a placement is; here the factors are
gathered and cut accordingly. Experts that share one pair get a copy each, and import accepts them
when the copies are equal: both are exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from clora import linears
from clora.all_ranks import any_rank, gather_objects, own_rank, raise_together, send_to_rank_0
from clora.errors import HFAdapterError
from clora.full_tensor import full_matrix, local_shard
from clora.hf_folder import FactorPair, read_folder, read_hf_config, write_folder
from clora.hf_names import HFLinear, NoHFLinear, Rows, hf_linears
from clora.wrappers import adapted_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from clora.adapters import Adapter, Factor
    from clora.hf_folder import AdapterFolder
    from clora.plan import Placement

    Model = nn.Module | Sequence[nn.Module]
    HFConfig = Mapping[str, Any] | str | Path
    """A Hugging Face model's `config.json`: the object in it, its path, or its folder's."""


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that is in the model and not in the folder."""

    module: str
    """Path of the base module in its model chunk."""
    global_layer: int | None
    reason: str


class HFExport(msgspec.Struct, frozen=True, kw_only=True):
    """What an export wrote. The same on every rank."""

    folder: str
    linears: int
    """Linears of the Hugging Face model that have a pair in the folder."""
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """What PEFT does otherwise than this model when it trains on, in full sentences."""


def export_hf(model: Model, folder: str | Path, hf: HFConfig, *, base_model: str | None = None) -> HFExport:
    """Write the adapters of `model` as the PEFT adapter folder `folder`. Called on every rank; rank
    0 writes.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks, on any layout.
        folder: not there yet; it appears when it is complete.
        hf: the config of the Hugging Face model that the base is.
        base_model: what the folder names as its base model; the path or name that `hf` has, when
            None.

    Raises:
        HFAdapterError: there is no adapter, one has no counterpart in a Hugging Face model, or the
            folder cannot be written. All ranks raise it.
    """
    folder = Path(folder)
    config: dict[str, Any] = {}
    items: list[_MappedAdapter] = []

    def prepare() -> None:
        config.update(read_hf_config(hf))
        items.extend(_mapped_adapters(model, config))
        _refuse_unmapped(items, config["model_type"])
        _refuse_duplicates(items)
        if own_rank() == 0 and folder.exists():
            raise HFAdapterError(f"{folder} exists already and is not overwritten. Choose another name or remove it.")

    _on_all_ranks(prepare)
    left_out = _left_out_anywhere(
        LeftOut(module=item.placement.module, global_layer=item.placement.global_layer, reason=item.linears.reason)
        for item in items
        if isinstance(item.linears, NoHFLinear)
    )
    pairs = _pairs_on_rank_0([item for item in items if not isinstance(item.linears, NoHFLinear)], model)
    dropout = max((item.adapter.dropout.probability for item in items), default=0.0)

    def write() -> None:
        if own_rank() != 0:
            return
        if not pairs:
            raise HFAdapterError(
                "There is nothing to export: the model has no adapters"
                + (f" but {len(left_out)} that are left out, because {left_out[0].reason}." if left_out else ".")
            )
        name = base_model if base_model is not None else _base_model(hf, config)
        write_folder(folder, pairs, base_model=name, dropout=dropout)

    _on_all_ranks(write)
    count, notes = gather_objects((len(pairs), _dropout_notes(items)))[0]
    return HFExport(folder=str(folder), linears=count, left_out=left_out, notes=notes)


def import_hf(model: Model, folder: str | Path, hf: HFConfig) -> None:
    """Fill the adapters of `model` from the PEFT adapter folder `folder`. Called on every rank,
    each of which takes its shards.

    Args:
        model: adapted with the targets, `dim` and `alpha` that the folder has; on any layout.
        folder: as `export_hf` or PEFT's `save_pretrained` wrote it; it may be somebody else's and
            is only read as data.
        hf: the config of the Hugging Face model that the base is.

    Raises:
        HFAdapterError: the folder is damaged, or is of other adapters than the model has; then
            nothing was changed on any rank.
    """
    values: list[tuple[Factor, torch.Tensor]] = []
    source: list[AdapterFolder] = []
    taken: set[str] = set()

    def read() -> None:
        items = _mapped_adapters(model, read_hf_config(hf))
        _refuse_merged(model)
        source.append(read_folder(Path(folder)))
        for item in items:
            if isinstance(item.linears, NoHFLinear):
                continue
            a, b = _full_factors(item, source[0])
            taken.update(linear.module for linear in item.linears)
            values.extend([(item.adapter.linear_in, a), (item.adapter.linear_out, b)])

    _on_all_ranks(read)
    _refuse_unused_pairs(source[0], taken, _device(model))
    with torch.no_grad():
        for factor, matrix in values:
            factor.weight.copy_(local_shard(factor, matrix))


@dataclass(frozen=True, slots=True)
class _MappedAdapter:
    """One adapter of this rank, and where Hugging Face has it."""

    placement: Placement
    adapter: Adapter
    linears: tuple[HFLinear, ...] | NoHFLinear
    heads: tuple[int, int, int]
    """Key-value groups, query heads per group, channels per head."""

    @property
    def key(self) -> str:
        """The same on all ranks that have (a shard of) this adapter, and of no other."""
        return "" if isinstance(self.linears, NoHFLinear) else self.linears[0].module


@dataclass(frozen=True, slots=True)
class _OfferedAdapter:
    """An adapter that a rank can give whole, as plain data."""

    key: str
    linears: tuple[tuple[str, str, int | None], ...]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: torch.dtype
    alpha: float
    heads: tuple[int, int, int]


def _mapped_adapters(model: Model, config: Mapping[str, Any]) -> list[_MappedAdapter]:
    items = []
    for chunk in _chunks(model):
        own: Any = getattr(chunk, "config", None)
        _refuse_other_model(own, config)
        groups = getattr(own, "num_query_groups", None) or 1
        heads = (groups, getattr(own, "num_attention_heads", groups) // groups, getattr(own, "kv_channels", None) or 1)
        for _, module in adapted_modules(chunk):
            for placement in module.placements:
                adapter = module.adapters[placement.part]
                found = hf_linears(placement, config["model_type"], ep_rank=adapter.wiring.ep_rank)
                item = _MappedAdapter(placement, adapter, found, heads)
                _refuse_other_rows(item, own, config)
                items.append(item)
    return items


def _refuse_other_model(own: Any, config: Mapping[str, Any]) -> None:
    """The two numbers by which a config of another model is known at once."""
    for ours, theirs in (("num_layers", "num_hidden_layers"), ("hidden_size", "hidden_size")):
        here, there = getattr(own, ours, None), config.get(theirs)
        if isinstance(here, int) and isinstance(there, int) and here != there:
            raise HFAdapterError(
                f"The model has {ours} = {here}, and the Hugging Face config has {theirs} = {there}: it is of another model."
            )


def _refuse_other_rows(item: _MappedAdapter, own: Any, config: Mapping[str, Any]) -> None:
    placement, vocabulary = item.placement, config.get("vocab_size")
    if (
        placement.module == "output_layer"
        and isinstance(vocabulary, int)
        and placement.b_global_shape[-2] != vocabulary
    ):
        raise HFAdapterError(
            f"output_layer has {placement.b_global_shape[-2]} rows and Hugging Face's lm_head {vocabulary}: the vocabulary is padded here, and "
            "the adapter of padded rows has no place there. Leave output_layer out of target_modules, or build it unpadded."
        )
    if placement.part == "q" and not isinstance(item.linears, NoHFLinear):
        gated = bool(getattr(own, "attention_output_gate", False))
        if gated != (item.linears[0].rows is Rows.QUERY_AND_GATE):
            raise HFAdapterError(
                f"{placement.at} has {'an' if gated else 'no'} output gate, and the attention of {config['model_type']} has "
                f"{'none' if gated else 'one'}: the Hugging Face config is of another model."
            )


def _refuse_merged(model: Model) -> None:
    for chunk in _chunks(model):
        for path, module in adapted_modules(chunk):
            if module.is_merged:
                raise HFAdapterError(
                    f"{path} is merged: the adapter that is in its weight could not be taken out again. Undo it first: "
                    "clora.unmerge_adapters(model)."
                )


def _refuse_unmapped(items: list[_MappedAdapter], model_type: str) -> None:
    unmapped = [
        (item.placement, item.linears)
        for item in items
        if isinstance(item.linears, NoHFLinear) and not item.linears.left_out
    ]
    if unmapped:
        placement, why = unmapped[0]
        raise HFAdapterError(
            f"{placement.at} cannot be in an adapter of a {model_type} model: {why.reason}. It is one of {len(unmapped)} such adapters of "
            f"{len(items)}; merge them (clora.merge_adapters) or leave them out of target_modules."
        )


def _refuse_duplicates(items: list[_MappedAdapter]) -> None:
    owners: dict[str, Placement] = {}
    for item in items:
        for linear in () if isinstance(item.linears, NoHFLinear) else item.linears:
            other = owners.setdefault(linear.module, item.placement)
            if other is not item.placement:
                raise HFAdapterError(
                    f"{other.at} and {item.placement.at} are both {linear.module} in the Hugging Face model, which can hold one."
                )


def _pairs_on_rank_0(items: list[_MappedAdapter], model: Model) -> dict[str, FactorPair]:
    """On rank 0, the pairs of the whole model by linear; empty elsewhere."""
    device = _device(model)
    here: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    offers: list[_OfferedAdapter] = []
    for item in items:
        # Everybody gathers, because everybody's shard is needed; who keeps the result is decided by
        # the offers.
        a, b = full_matrix(item.adapter.linear_in), full_matrix(item.adapter.linear_out)
        if _has_first_shard(item.adapter):
            here[item.key] = a.cpu(), b.cpu()
            offers.append(_offered(item, a, b))
    owners: dict[str, tuple[int, _OfferedAdapter]] = {}
    for rank, of_rank in enumerate(gather_objects(offers)):
        for offer in of_rank:
            owners.setdefault(offer.key, (rank, offer))
    pairs: dict[str, FactorPair] = {}
    here_rank = own_rank()
    for key in sorted(owners, key=_by_number):
        owner, offer = owners[key]
        if here_rank not in (0, owner):
            continue
        factors = [
            send_to_rank_0(here[key][i] if owner == here_rank else None, offer.shapes[i], offer.dtype, owner, device)
            for i in (0, 1)
        ]
        if here_rank == 0 and factors[0] is not None and factors[1] is not None:
            pairs.update(_pairs(offer, factors[0], factors[1]))
    return {module: pairs[module] for module in sorted(pairs, key=_by_number)}


def _has_first_shard(adapter: Adapter) -> bool:
    """One rank of the tensor-parallel axis offers an adapter; of its copies on other axes, the
    lowest rank's is taken.
    """
    return adapter.wiring.rank == 0


def _offered(item: _MappedAdapter, a: torch.Tensor, b: torch.Tensor) -> _OfferedAdapter:
    found = () if isinstance(item.linears, NoHFLinear) else item.linears
    return _OfferedAdapter(
        key=item.key,
        linears=tuple((linear.module, linear.rows.value, linear.expert) for linear in found),
        shapes=(tuple(a.shape), tuple(b.shape)),
        dtype=a.dtype,
        alpha=item.adapter.alpha,
        heads=item.heads,
    )


def _pairs(offer: _OfferedAdapter, a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[str, FactorPair]]:
    """The pair of every linear of Hugging Face's that one adapter is."""
    for module, rows, expert in offer.linears:
        own_a, own_b = (a, b) if a.dim() == 2 or expert is None else (a[expert], b[expert])
        yield module, FactorPair(own_a, _hf_rows(own_b, Rows(rows), offer.heads), offer.alpha)


def _hf_rows(b: torch.Tensor, rows: Rows, heads: tuple[int, int, int]) -> torch.Tensor:
    """The rows of B, in the order of Hugging Face's linear."""
    if rows is Rows.GATE:
        return b.chunk(2)[0]
    if rows is Rows.UP:
        return b.chunk(2)[1]
    if rows is Rows.QUERY_AND_GATE:
        groups, per_group, channels = heads
        return b.view(groups, 2, per_group, channels, -1).transpose(1, 2).reshape(b.shape)
    return b


def _full_factors(item: _MappedAdapter, source: AdapterFolder) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole A and B of one adapter from the pairs of its linears, which must be what it can hold."""
    found = () if isinstance(item.linears, NoHFLinear) else item.linears
    missing = [linear.module for linear in found if linear.module not in source.shapes]
    if missing:
        raise HFAdapterError(
            f"{source.path} has no pair for {missing[0]} ({len(missing)} of {len(found)} linears that {item.placement.at} is are missing; it "
            f"has {len(source.shapes)}). Adapt the model with the targets that the folder has."
        )
    by_expert: dict[int | None, list[tuple[HFLinear, FactorPair]]] = {}
    for linear in found:
        by_expert.setdefault(linear.expert, []).append((linear, source.pair(linear.module)))
    matrices = [_factors_of_one_expert(item, pairs, source) for pairs in by_expert.values()]
    for matrix_pair in matrices:
        for factor, matrix in zip((item.adapter.linear_in, item.adapter.linear_out), matrix_pair, strict=True):
            if tuple(matrix.shape) != factor.global_shape[-2:]:
                raise HFAdapterError(
                    f"{source.path} has {found[0].module} (or an expert beside it) in the shape {list(matrix.shape)}, and the adapter at "
                    f"{item.placement.at} has {list(factor.global_shape[-2:])}. Adapt the model with the dim that the folder has; is it of "
                    "this base model?"
                )
    a, b = matrices[0]
    if "ep" in item.adapter.linear_in.axes:
        a, b = (torch.stack(list(factors)) for factors in zip(*matrices, strict=True))
    elif not all(torch.equal(a, other_a) and torch.equal(b, other_b) for other_a, other_b in matrices[1:]):
        raise HFAdapterError(
            f"{source.path} has different pairs for the experts that share {item.placement.at}. Adapt the model with "
            "share_expert_adapters=False, or with sequential experts."
        )
    return a, b


def _factors_of_one_expert(
    item: _MappedAdapter, pairs: list[tuple[HFLinear, FactorPair]], source: AdapterFolder
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of one expert, or of the whole linear: the rows of gate and up, which have one A, on
    top of each other.
    """
    (linear, first), *others = pairs
    for other, pair in pairs:
        scale = pair.alpha / pair.rank if pair.rank else 0.0
        if abs(scale - item.adapter.scale) > 1e-6 * item.adapter.scale:
            raise HFAdapterError(
                f"{source.path} scales the pair of {other.module} by {scale:g} (alpha {pair.alpha:g}, rank {pair.rank}), and the adapter "
                f"at {item.placement.at} by {item.adapter.scale:g} (alpha {item.adapter.alpha:g}, dim {item.adapter.dim}). Use that alpha and dim."
            )
    if not all(torch.equal(first.a, pair.a) for _, pair in others):
        raise HFAdapterError(
            f"{source.path} has an A for {linear.module} and another for {others[0][0].module}; here {item.placement.at} is adapted as a "
            "whole, with one A. Such an adapter fits sequential experts (moe_grouped_gemm=False) only."
        )
    b = torch.cat([pair.b for _, pair in pairs])
    if linear.rows is Rows.QUERY_AND_GATE:
        groups, per_group, channels = item.heads
        if b.shape[0] == groups * per_group * 2 * channels:
            b = b.view(groups, per_group, 2, channels, -1).transpose(1, 2).reshape(b.shape)
    return first.a, b


def _refuse_unused_pairs(source: AdapterFolder, taken: set[str], device: torch.device) -> None:
    """Pairs in the folder that no rank takes are a mistake: the model would not be what the folder
    says.
    """
    modules = sorted(source.shapes, key=_by_number)
    flags = torch.tensor([module in taken for module in modules], dtype=torch.uint8, device=device)
    left = [module for module, flag in zip(modules, any_rank(flags).tolist(), strict=True) if not flag]
    if left:
        raise HFAdapterError(
            f"{source.path} has a pair for {left[0]}, and the model has no adapter there ({len(left)} of {len(modules)} pairs). Adapt the "
            "model with the targets that the folder has."
        )


def _on_all_ranks(action: Callable[[], None]) -> None:
    """Run `action` on every rank; an error on one is raised on all."""
    error = None
    try:
        action()
    except HFAdapterError as raised:
        error = raised
    raise_together(error)


def _left_out_anywhere(left_out: Iterator[LeftOut]) -> tuple[LeftOut, ...]:
    """What any rank leaves out, each once."""
    found = {entry: None for of_rank in gather_objects(list(left_out)) for entry in of_rank}
    return tuple(sorted(found, key=lambda entry: (entry.global_layer or 0, entry.module)))


def _dropout_notes(items: list[_MappedAdapter]) -> tuple[str, ...]:
    if any(item.adapter.dropout.probability and item.adapter.dropout.position == "post" for item in items):
        return ("PEFT drops an adapter's input; these adapters were trained with dropout of their output.",)
    return ()


def _base_model(hf: HFConfig, config: Mapping[str, Any]) -> str:
    if isinstance(hf, Mapping):
        return str(config.get("_name_or_path") or "")
    return str(hf).removesuffix("/config.json")


def _chunks(model: Model) -> list[nn.Module]:
    return [linears.unwrap(chunk) for chunk in (model if isinstance(model, Sequence) else [model])]


def _device(model: Model) -> torch.device:
    return next(_chunks(model)[0].parameters()).device


def _by_number(name: str) -> list[str | int]:
    """Sort key: layer 10 after layer 9. Even entries are words, odd ones numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
