"""Write the adapters of a model as a Hugging Face PEFT folder, and fill them from one.

    report = export_hf(model, "my-adapter", "path/to/Llama-3.1-8B")  # on every rank
    print(report.left_out)                                           # what PEFT cannot hold
    import_hf(model, "my-adapter", "path/to/Llama-3.1-8B")           # on any layout

`clora.hf_names` says which linears of the Hugging Face model an adapter changes, and
`clora.folders.hf_folder` knows the files. This module gathers the factors of all ranks and cuts
them into the pairs of these linears. Experts that share one pair get a copy each, and a folder with
equal copies is imported into a shared pair, so both ways are exact.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import torch

from clora import linears
from clora.all_ranks import any_rank, gather_objects, own_rank, send_to_rank_0, together
from clora.errors import FingerprintError, HFAdapterError
from clora.families import families
from clora.fingerprints.peft_folder import peft_pairs
from clora.folders.fingerprint import (
    FILE,
    FORMAT,
    RecordedFingerprint,
    common_pairs_once,
    read_record,
    record_of,
)
from clora.folders.hf_folder import FactorPair, read_folder, read_hf_config, text_config, write_folder
from clora.folders.new_folder import refuse_existing
from clora.hf_names import (
    TEXT_MODEL,
    HFLinear,
    NoHFLinear,
    Rows,
    from_hf_rows,
    hf_layer_count,
    hf_linears,
    to_hf_rows,
)
from clora.linears import ModelShape
from clora.plan import TowerKind
from clora.sharding.full_tensor import full_matrix, local_shard
from clora.towers import towers_of
from clora.wrappers import adapted_modules, refuse_merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from clora.adapters import Adapter, Factor
    from clora.folders.hf_folder import AdapterFolder
    from clora.layer_pattern import LayerPattern
    from clora.linears import Model
    from clora.plan import Placement

    HFConfig = Mapping[str, Any] | str | Path
    """The config of a Hugging Face model: the object in its `config.json`, the path of that file,
    or the path of its folder.
    """

T = TypeVar("T")

_log = logging.getLogger("clora")


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter of the model that is not in the folder."""

    module: str
    """Path of the adapted module in its model chunk."""
    global_layer: int | None
    """Zero-based number of its layer in the whole model; None outside the layers."""
    reason: str


class HFExport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an export, equal on all ranks."""

    folder: str
    linears: int
    """Linears of the Hugging Face model that have a pair in the folder."""
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences on the model that the folder fits, and on what PEFT does differently if it trains
    the adapter further.
    """


def export_hf(model: Model, folder: str | Path, hf: HFConfig, *, base_model: str | None = None) -> HFExport:
    """Write the adapters of `model` as a PEFT adapter folder. All ranks must call this.

    Rank 0 writes. It holds the factors of the whole model in the memory of the CPU meanwhile. If it
    is killed, it leaves a folder `FOLDER.xxxxxxxx.unfinished`, which nobody reads or needs.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks, on any layout.
        folder: the new folder. It appears when it is complete.
        hf: config of the Hugging Face model that the base was converted from. For the text part of
            a model of several modalities give the config of the whole model: the names in the
            folder are those of the model that is deployed.
        base_model: name of the base model in the folder; None takes the path or name in `hf`.

    Returns:
        What was written and what was left out. Routers are left out: PEFT cannot hold them.

    Raises:
        HFAdapterError: the model has no adapters, one of them has no counterpart in the Hugging
            Face model, or the folder exists or cannot be written. All ranks raise it.
    """
    folder = Path(folder)

    def prepare() -> tuple[dict[str, Any], _Adapters]:
        config = read_hf_config(hf)
        adapters = _adapters_of(model, config)
        _refuse_unmapped(adapters, text_config(config)["model_type"])
        _refuse_duplicates(adapters.mapped)
        if own_rank() == 0:
            refuse_existing(folder, HFAdapterError)
        return config, adapters

    config, adapters = _on_all_ranks(prepare)
    left_out = _left_out_anywhere(adapters.unmapped)
    pairs = _pairs_on_rank_0(adapters.mapped, model)

    def write() -> None:
        if own_rank() != 0:
            return
        if not pairs:
            raise HFAdapterError(
                "There is nothing to export: the model has no adapters"
                + (f" but {len(left_out)} that are left out, because {left_out[0].reason}." if left_out else ".")
            )
        name = base_model if base_model is not None else _base_model(hf, config)
        write_folder(folder, pairs, base_model=name, dropout=adapters.dropout, record=_record_of(pairs))

    _on_all_ranks(write)
    # Only rank 0 has the pairs, so its count goes to all ranks.
    count, notes = gather_objects((len(pairs), (*_dropout_notes(adapters), *_name_notes(config, pairs))))[0]
    if left_out and own_rank() == 0:
        _log.warning(
            "%d trained adapters are not in %s, the first is %s: %s.",
            len(left_out),
            folder,
            left_out[0].module,
            left_out[0].reason,
        )
    return HFExport(folder=str(folder), linears=count, left_out=left_out, notes=notes)


def import_hf(model: Model, folder: str | Path, hf: HFConfig) -> None:
    """Fill the adapters of `model` from a PEFT adapter folder. All ranks must call this.

    Args:
        model: a model adapted with the targets, `dim` and `alpha` of the folder, or the list of its
            virtual pipeline chunks, on any layout. Routers keep their values.
        folder: what `export_hf` or PEFT's `save_pretrained` wrote. It is read as data, so it may
            come from anybody.
        hf: config of the Hugging Face model that the base was converted from.

    Raises:
        HFAdapterError: the folder is damaged, or its adapters are not those of the model. All ranks
            raise it, and no model was changed.
    """

    def read() -> tuple[AdapterFolder, list[tuple[Factor, torch.Tensor]], set[str], list[str]]:
        adapters = _adapters_of(model, read_hf_config(hf))
        refuse_merged(model, HFAdapterError)
        source = read_folder(Path(folder))
        values: list[tuple[Factor, torch.Tensor]] = []
        for item in adapters.mapped:
            a, b = _full_factors(item, source)
            values += [(item.adapter.linear_in, a), (item.adapter.linear_out, b)]
        used = {linear.module for item in adapters.mapped for linear in item.linears}
        return source, values, used, _not_as_exported(source, used)

    source, values, used, changed = _on_all_ranks(read)
    _tell_changes(source, changed)
    # This communicates, so it comes after the step in which a single rank may fail.
    _refuse_unused_pairs(source, used, _device(model))
    with torch.no_grad():
        for factor, matrix in values:
            factor.weight.copy_(local_shard(factor, matrix))


@dataclass(frozen=True, slots=True)
class _MappedAdapter:
    """An adapter on this rank and the Hugging Face linears that it changes."""

    placement: Placement
    adapter: Adapter
    linears: tuple[HFLinear, ...]
    shape: ModelShape

    @property
    def key(self) -> str:
        """A name that all ranks with a shard or copy of this adapter give it, and no other."""
        return self.linears[0].module


@dataclass(frozen=True, slots=True)
class _UnmappedAdapter:
    """An adapter on this rank that no Hugging Face linear can hold."""

    placement: Placement
    adapter: Adapter
    why: NoHFLinear


@dataclass(frozen=True, slots=True)
class _Adapters:
    """All adapters on this rank."""

    mapped: list[_MappedAdapter]
    unmapped: list[_UnmappedAdapter]

    @property
    def all(self) -> list[Adapter]:
        return [item.adapter for item in self.mapped] + [item.adapter for item in self.unmapped]

    @property
    def dropout(self) -> float:
        """The largest probability: PEFT has one for the whole adapter."""
        return max((adapter.dropout.probability for adapter in self.all), default=0.0)


@dataclass(frozen=True, slots=True)
class _OfferedAdapter:
    """An adapter that a rank has joined, described by plain data for the other ranks."""

    key: str
    linears: tuple[tuple[str, str, int | None], ...]
    """(path, `Rows`, expert) of each `HFLinear`."""
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    """Full shapes of A and B."""
    dtype: torch.dtype
    alpha: float
    shape: ModelShape


def _adapters_of(model: Model, config: Mapping[str, Any]) -> _Adapters:
    """Return the adapters on this rank with their Hugging Face linears.

    Raises:
        HFAdapterError: `config` belongs to another model.
    """
    whole, config = config, text_config(config)
    inside = None if config is whole else whole["model_type"]
    adapters = _Adapters([], [])
    for chunk in linears.chunks_of(model):
        shape, pattern = linears.model_shape(chunk), linears.layer_pattern(chunk)
        _refuse_other_model(shape, config, pattern)
        language = [tower.path for tower in towers_of(chunk) if tower.kind is TowerKind.LANGUAGE and tower.path]
        for _, module in adapted_modules(chunk):
            for placement in module.placements:
                adapter = module.adapters[placement.part]
                standing_alone = _standing_alone(placement, language)
                found = hf_linears(
                    standing_alone,
                    config["model_type"],
                    ep_rank=adapter.wiring.ep_rank,
                    inside=inside,
                    pattern=pattern,
                )
                _refuse_padded_rows(standing_alone, config)
                if isinstance(found, NoHFLinear):
                    adapters.unmapped.append(_UnmappedAdapter(placement, adapter, found))
                else:
                    item = _MappedAdapter(placement, adapter, found, shape)
                    _refuse_other_gate(item, config)
                    adapters.mapped.append(item)
    return adapters


def _standing_alone(placement: Placement, language: Iterable[str]) -> Placement:
    """Return `placement` as the language model, which is at one of the paths `language`, has it
    when nothing stands around it.
    """
    for path in language:
        if placement.module.startswith(f"{path}."):
            return msgspec.structs.replace(placement, module=placement.module.removeprefix(f"{path}."))
    return placement


def _refuse_other_model(shape: ModelShape, config: Mapping[str, Any], pattern: LayerPattern | None) -> None:
    # Two numbers give a wrong config away at once. The other shapes are compared where they matter.
    layers = hf_layer_count(shape.num_layers, config["model_type"], pattern)
    for ours, here, theirs in (
        ("num_layers", layers, "num_hidden_layers"),
        ("hidden_size", shape.hidden_size, "hidden_size"),
    ):
        there = config.get(theirs)
        if isinstance(here, int) and isinstance(there, int) and here != there:
            raise HFAdapterError(
                f"The model has {ours} = {here}, and the Hugging Face config has {theirs} = {there}: "
                "it is of another model."
            )


def _refuse_padded_rows(placement: Placement, config: Mapping[str, Any]) -> None:
    rows, vocabulary = placement.b_global_shape[-2], config.get("vocab_size")
    if placement.module == "output_layer" and isinstance(vocabulary, int) and rows != vocabulary:
        raise HFAdapterError(
            f"output_layer has {rows} rows and Hugging Face's lm_head {vocabulary}: the vocabulary is padded here, "
            "and the adapter of padded rows has no place there. Leave output_layer out of target_modules, or build "
            "it unpadded."
        )


def _refuse_other_gate(item: _MappedAdapter, config: Mapping[str, Any]) -> None:
    gated = item.shape.has_output_gate
    if item.placement.part == "q" and gated != (item.linears[0].rows is Rows.QUERY_AND_GATE):
        raise HFAdapterError(
            f"{item.placement.at} has {'an' if gated else 'no'} output gate, and the attention of "
            f"{config['model_type']} has {'none' if gated else 'one'}: the Hugging Face config is of another model."
        )


def _refuse_unmapped(adapters: _Adapters, model_type: str) -> None:
    refused = [item for item in adapters.unmapped if not item.why.left_out]
    if refused:
        raise HFAdapterError(
            f"{refused[0].placement.at} cannot be in an adapter of a {model_type} model: {refused[0].why.reason}. "
            f"It is one of {len(refused)} such adapters of {len(adapters.all)}; merge them (clora.merge_adapters) or "
            "leave them out of target_modules."
        )


def _refuse_duplicates(items: list[_MappedAdapter]) -> None:
    owners: dict[str, Placement] = {}
    for item in items:
        for linear in item.linears:
            other = owners.setdefault(linear.module, item.placement)
            if other is not item.placement:
                raise HFAdapterError(
                    f"{other.at} and {item.placement.at} are both {linear.module} in the Hugging Face model, which "
                    "can hold one."
                )


def _pairs_on_rank_0(items: list[_MappedAdapter], model: Model) -> dict[str, FactorPair]:
    """Return Hugging Face linear -> pair for the whole model on rank 0, nothing on other ranks."""
    device = _device(model)
    joined: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    offers: list[_OfferedAdapter] = []
    for item in items:
        # Every rank takes part, because its shard is needed, and then drops the result unless it is
        # the first of the tensor-parallel axis.
        a, b = full_matrix(item.adapter.linear_in), full_matrix(item.adapter.linear_out)
        if item.adapter.wiring.rank == 0:
            joined[item.key] = a.cpu(), b.cpu()
            offers.append(_offer(item, a, b))
    # Data-parallel and expert-parallel ranks have copies: take the copy of the lowest rank.
    owners: dict[str, tuple[int, _OfferedAdapter]] = {}
    for rank, offered in enumerate(gather_objects(offers)):
        for offer in offered:
            owners.setdefault(offer.key, (rank, offer))
    pairs: dict[str, FactorPair] = {}
    here = own_rank()
    # All ranks go through the adapters in one order, so that senders and receiver meet.
    for key in sorted(owners, key=_numeric_order):
        owner, offer = owners[key]
        if here not in (0, owner):
            continue
        a_and_b = [
            send_to_rank_0(joined[key][i] if owner == here else None, offer.shapes[i], offer.dtype, owner, device)
            for i in (0, 1)
        ]
        if here == 0 and a_and_b[0] is not None and a_and_b[1] is not None:
            pairs.update(_cut_pairs(offer, a_and_b[0], a_and_b[1]))
    return {module: pairs[module] for module in sorted(pairs, key=_numeric_order)}


def _record_of(pairs: Mapping[str, FactorPair]) -> RecordedFingerprint | None:
    try:
        return record_of(*peft_pairs(pairs.items()))
    except FingerprintError:
        # fp64, which PEFT can hold and a fingerprint cannot.
        return None


def _not_as_exported(source: AdapterFolder, used: Iterable[str]) -> list[str]:
    """Return which of the linears `used` have other values than when they were exported."""
    record = read_record(source.path)
    if record is None or record.format != FORMAT:
        return []
    try:
        digests, _ = peft_pairs((module, source.pair(module)) for module in used)
    except FingerprintError:
        return []
    return [name for name, digest in common_pairs_once(digests).items() if record.pairs.get(name) != digest]


def _tell_changes(source: AdapterFolder, changed: list[str]) -> None:
    found = sorted({name for names in gather_objects(changed) for name in names}, key=_numeric_order)
    if found and own_rank() == 0:
        # PEFT may have trained the adapter further in this folder: that is no mistake.
        _log.warning(
            "%s: %s is not what was exported (%d linears differ from %s). Its present values are imported.",
            source.path,
            found[0],
            len(found),
            FILE,
        )


def _offer(item: _MappedAdapter, a: torch.Tensor, b: torch.Tensor) -> _OfferedAdapter:
    return _OfferedAdapter(
        key=item.key,
        linears=tuple((linear.module, linear.rows.value, linear.expert) for linear in item.linears),
        shapes=(tuple(a.shape), tuple(b.shape)),
        dtype=a.dtype,
        alpha=item.adapter.alpha,
        shape=item.shape,
    )


def _cut_pairs(offer: _OfferedAdapter, a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[str, FactorPair]]:
    """Yield the path and pair of every Hugging Face linear that one adapter changes."""
    for module, rows, expert in offer.linears:
        own_a, own_b = (a, b) if a.dim() == 2 or expert is None else (a[expert], b[expert])
        yield module, FactorPair(own_a, to_hf_rows(own_b, Rows(rows), offer.shape.heads), offer.alpha)


def _full_factors(item: _MappedAdapter, source: AdapterFolder) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the full A and B of one adapter, put together from the pairs of its linears.

    Raises:
        HFAdapterError: a pair is missing, has another shape or scale, or differs from one that it
            has to equal.
    """
    missing = [linear.module for linear in item.linears if linear.module not in source.shapes]
    if missing:
        raise HFAdapterError(
            f"{source.path} has no pair for {missing[0]} ({len(missing)} of the {len(item.linears)} linears "
            f"under {item.placement.at} are missing; it has {len(source.shapes)}). Adapt the model with the targets "
            "that the folder has."
        )
    by_expert: dict[int | None, list[tuple[HFLinear, FactorPair]]] = {}
    for linear in item.linears:
        by_expert.setdefault(linear.expert, []).append((linear, source.pair(linear.module)))
    matrices = [_factors_of_one_expert(item, pairs, source) for pairs in by_expert.values()]
    for a_and_b in matrices:
        _refuse_other_shapes(item, a_and_b, source)
    a, b = matrices[0]
    if "ep" in item.adapter.linear_in.axes:
        a, b = (torch.stack(list(same_factor)) for same_factor in zip(*matrices, strict=True))
    elif not all(torch.equal(a, other_a) and torch.equal(b, other_b) for other_a, other_b in matrices[1:]):
        raise HFAdapterError(
            f"{source.path} has different pairs for the experts that share {item.placement.at}. Adapt the model with "
            "share_expert_adapters=False, or with sequential experts."
        )
    return a, b


def _refuse_other_shapes(
    item: _MappedAdapter, a_and_b: tuple[torch.Tensor, torch.Tensor], source: AdapterFolder
) -> None:
    for factor, matrix in zip((item.adapter.linear_in, item.adapter.linear_out), a_and_b, strict=True):
        if tuple(matrix.shape) != factor.global_shape[-2:]:
            raise HFAdapterError(
                f"{source.path} has {item.linears[0].module} (or an expert beside it) in the shape "
                f"{list(matrix.shape)}, and the adapter at {item.placement.at} has {list(factor.global_shape[-2:])}. "
                "Adapt the model with the dim that the folder has; is it of this base model?"
            )


def _factors_of_one_expert(
    item: _MappedAdapter, pairs: list[tuple[HFLinear, FactorPair]], source: AdapterFolder
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A and B of one expert, or of a linear outside experts.

    Gate and up of an expert that is adapted as a whole are two linears in the folder: they must
    have one A, and their rows of B follow each other.
    """
    (linear, first), *others = pairs
    for other, pair in pairs:
        scale = pair.alpha / pair.rank if pair.rank else 0.0
        # In a folder of rank-stabilised LoRA, alpha was multiplied by a rounded square root.
        if abs(scale - item.adapter.scale) > 1e-6 * item.adapter.scale:
            raise HFAdapterError(
                f"{source.path} scales the pair of {other.module} by {scale:g} (alpha {pair.alpha:g}, rank "
                f"{pair.rank}), and the adapter at {item.placement.at} by {item.adapter.scale:g} (alpha "
                f"{item.adapter.alpha:g}, dim {item.adapter.dim}). Use that alpha and dim."
            )
    if not all(torch.equal(first.a, pair.a) for _, pair in others):
        raise HFAdapterError(
            f"{source.path} has an A for {linear.module} and another for {others[0][0].module}; here "
            f"{item.placement.at} is adapted as a whole, with one A. Such an adapter fits sequential experts "
            "(moe_grouped_gemm=False) only."
        )
    return first.a, from_hf_rows(torch.cat([pair.b for _, pair in pairs]), linear.rows, item.shape.heads)


def _refuse_unused_pairs(source: AdapterFolder, used: set[str], device: torch.device) -> None:
    """Raise when the folder has a pair that no rank uses: the model would lack a part of it."""
    modules = sorted(source.shapes, key=_numeric_order)
    flags = torch.tensor([module in used for module in modules], dtype=torch.uint8, device=device)
    unused = [module for module, flag in zip(modules, any_rank(flags).tolist(), strict=True) if not flag]
    if unused:
        raise HFAdapterError(
            f"{source.path} has a pair for {unused[0]}, and the model has no adapter there ({len(unused)} of "
            f"{len(modules)} pairs). Adapt the model with the targets that the folder has."
        )


def _on_all_ranks(action: Callable[[], T]) -> T:
    """Run `action` and return its result; raise on all ranks when it fails on any."""
    return together(action, lambda error: HFAdapterError(f"{type(error).__name__}: {error}"))


def _left_out_anywhere(unmapped: Iterable[_UnmappedAdapter]) -> tuple[LeftOut, ...]:
    """Return what any rank leaves out, each adapter once, in the order of the layers."""
    left_out = [
        LeftOut(module=item.placement.module, global_layer=item.placement.global_layer, reason=item.why.reason)
        for item in unmapped
    ]
    # A dict and not a set, because its order is the same on all ranks.
    found = dict.fromkeys(entry for entries in gather_objects(left_out) for entry in entries)
    return tuple(sorted(found, key=lambda entry: (entry.global_layer or 0, entry.module)))


def _dropout_notes(adapters: _Adapters) -> tuple[str, ...]:
    if any(adapter.dropout.probability and adapter.dropout.position == "post" for adapter in adapters.all):
        return ("PEFT drops an adapter's input; these adapters were trained with dropout of their output.",)
    return ()


def _name_notes(config: Mapping[str, Any], pairs: Mapping[str, FactorPair]) -> tuple[str, ...]:
    names = families()[text_config(config)["model_type"]].names
    if names.layers_in_transformers_5:
        renamed = (
            f"The names in the folder begin with {names.layers}, as in the released checkpoints and in vLLM. "
            f"transformers 5 has its own class for them with {names.layers_in_transformers_5}: to load the adapter "
            "there, rename them in both files."
        )
        return (renamed,)
    # transformers writes `architectures` when it saves a model. The object under text_config, saved
    # as a file of its own, has none.
    if config.get("architectures") or text_config(config) is not config:
        return ()
    example = next((module for module in pairs if module.startswith("model.")), None)
    if example is None:
        return ()
    note = (
        f"The names in the folder are those of a {config['model_type']} model that stands alone, such as {example}. "
        f"A model of several modalities has its layers at {TEXT_MODEL}layers.* (transformers 4.52 and later): to serve "
        "the adapter with one, export with the config.json of the whole model."
    )
    return (note,)


def _base_model(hf: HFConfig, config: Mapping[str, Any]) -> str:
    if isinstance(hf, Mapping):
        # transformers notes in a config the name or path that it was loaded from.
        return str(config.get("_name_or_path") or "")
    return str(hf).removesuffix("/config.json")


def _device(model: Model) -> torch.device:
    # A job communicates where its parameters are: NCCL takes tensors of a GPU, gloo those of a CPU.
    return next(linears.chunks_of(model)[0].parameters()).device


def _numeric_order(name: str) -> list[str | int]:
    """Return a sort key that puts layer 10 behind layer 9."""
    # Splitting by numbers gives words at even and numbers at odd positions: always comparable.
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
