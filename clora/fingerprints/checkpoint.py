"""Fingerprint the adapters in a distributed checkpoint, from its tensors and without a model.

It may be one of clora's, of Megatron-Bridge's, or of a trainer that saved the whole model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clora.bridge_checkpoint.forms import explanation, halved_by
from clora.bridge_checkpoint.shards import in_order
from clora.errors import CheckpointError, FingerprintError
from clora.fingerprints.names import names_in_megatron
from clora.folders.adapter_scales import read_scales
from clora.folders.checkpoint_metadata import SavedTensor, read_places
from clora.folders.checkpoint_tensors import read_layer
from clora.folders.fingerprint import Naming, digest_of_pair, dtype_name
from clora.hf_names import to_hf_rows
from clora.layer_pattern import LayerPattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

    from clora.folders.adapter_scales import SavedScales
    from clora.folders.checkpoint_metadata import StoredTensor

_KEY = re.compile(
    r"(?P<module>.+?)(?P<adapter>\.adapter)?(?:\.adapter_(?P<part>q|k|v|gate|up))?"
    r"\.linear_(?P<factor>in|out)\.weight(?P<numbers>(?:\.\d+)*)(?:\.(?P<section>[A-Za-z]\w*))?"
)
_IN_STACK = re.compile(r"(?P<above>.*\bdecoder\.layers)\.(?P<number>\d+\.)?(?P<below>.+)")
_SECTIONS = (("z", "x", "B", "C", "dt"), ("query", "key", "value", "z", "beta", "alpha"))
"""Names of the sections of an `in_proj`, in the order of its rows."""
_FROM_RIGHT = 2
"""Dims of a matrix; those in front of them are layers and experts."""


@dataclass(slots=True)
class _Factor:
    """The tensors of one A or B: one, or one for each section."""

    tensors: dict[str, str] = field(default_factory=dict)
    """Section or "" -> key."""


@dataclass(slots=True)
class _Adapter:
    """The tensors of one adapter, or of those of a stack of layers."""

    key: str
    """The key without the name of the factor, as `adapters.json` has it."""
    module: str
    part: str | None
    numbers: tuple[int, ...]
    """Numbers of the layer and expert behind the key."""
    a: _Factor = field(default_factory=_Factor)
    b: _Factor = field(default_factory=_Factor)


@dataclass(frozen=True, slots=True)
class CheckpointPairs:
    """The pairs of a checkpoint."""

    digests: dict[str, str]
    dtypes: set[str]
    saved: SavedScales | None
    """The record that clora wrote beside the tensors; None where it did not write them."""


def checkpoint_pairs(folder: Path, *, alpha: float | None = None, naming: Naming | None = None) -> CheckpointPairs:
    """Return the digest of each pair in the checkpoint at `folder`, with the pairs of one layer in
    memory at a time.

    Args:
        folder: the checkpoint.
        alpha: the alpha of all adapters, for a checkpoint that does not have it.
        naming: the facts of the model, for a checkpoint that does not have them.

    Raises:
        CheckpointError: it is no checkpoint, is damaged, or is in a form that is not known.
        FingerprintError: alpha or a fact of the model is not known, or values do not fit into fp32.
    """
    places = read_places(folder, ".linear_")
    adapters = _adapters(places, folder)
    if not adapters:
        raise CheckpointError(f"{folder} has no adapters: no key is that of an A and a B.")
    saved = read_scales(folder)
    recorded = saved.fingerprint.naming if saved and saved.fingerprint else None
    reader = _Reader(folder, places, saved, alpha, recorded or naming)
    digests: dict[str, str] = {}
    for adapter in adapters:
        digests |= reader.digests(adapter)
    return CheckpointPairs(digests, reader.dtypes, saved)


def _adapters(places: Mapping[str, StoredTensor], folder: Path) -> list[_Adapter]:
    found: dict[str, _Adapter] = {}
    for key in sorted(places):
        match = _KEY.fullmatch(key)
        if match is None:
            continue
        numbers = match["numbers"] or ""
        stem = key[: match.start("factor") - len(".linear_")] + numbers
        adapter = found.setdefault(
            stem, _Adapter(stem, match["module"], match["part"], tuple(map(int, numbers.split(".")[1:])))
        )
        factor = adapter.a if match["factor"] == "in" else adapter.b
        factor.tensors[match["section"] or ""] = key
    incomplete = [adapter.key for adapter in found.values() if not (adapter.a.tensors and adapter.b.tensors)]
    # A linear of a model may be called `linear_in`; an adapter has both.
    if any(".adapter" in key for key in incomplete):
        raise CheckpointError(f"{folder} is damaged: {incomplete[0]} has one factor of two.")
    return [adapter for adapter in found.values() if adapter.key not in incomplete]


class _Reader:
    """Reads the adapters of one checkpoint."""

    def __init__(
        self,
        folder: Path,
        places: Mapping[str, StoredTensor],
        saved: SavedScales | None,
        alpha: float | None,
        naming: Naming | None,
    ) -> None:
        self.folder = folder
        self.dtypes: set[str] = set()
        self._places = places
        self._saved = saved
        self._alpha = alpha
        self._naming = naming
        letters = saved.layer_pattern if saved else None
        self._pattern = None if letters is None else LayerPattern(letters)

    def digests(self, adapter: _Adapter) -> dict[str, str]:
        """Return name -> digest of the linears that the adapters of one key change."""
        found: dict[str, str] = {}
        for module, index, expert, a, b in self._matrices(adapter):
            self.dtypes |= {dtype_name(a), dtype_name(b)}
            scale = self._scale(adapter, index, int(a.shape[0]))
            naming = self._naming_of(adapter)
            for name, rows in names_in_megatron(
                module,
                adapter.part,
                expert=expert,
                gated=naming.gated,
                output_gate=naming.output_gate is not None,
                pattern=self._pattern,
            ):
                found[name] = digest_of_pair(name, a, to_hf_rows(b, rows, naming.output_gate or (1, 1, 1)), scale)
        return found

    def _matrices(
        self, adapter: _Adapter
    ) -> Iterator[tuple[str, tuple[int, ...], int | None, torch.Tensor, torch.Tensor]]:
        """Yield module with its layer, index in front of the matrices, expert, A and B."""
        place = _IN_STACK.fullmatch(adapter.module)
        rank = len(self._places[next(iter(adapter.a.tensors.values()))].shape)
        in_experts = ".experts." in f".{adapter.module}."
        is_stack = place is not None and place["number"] is None and not adapter.numbers
        if rank < _FROM_RIGHT + is_stack or rank > _FROM_RIGHT + is_stack + in_experts:
            raise CheckpointError(f"{self.folder} has {adapter.key} with {rank} dims, which no adapter has.")
        for layer in range(self._layers(adapter)) if is_stack else (None,):
            a, b = self._factor(adapter, adapter.a, layer), self._factor(adapter, adapter.b, layer)
            module, numbers = adapter.module, adapter.numbers if layer is None else (layer,)
            if place is not None and place["number"] is None and numbers:
                module = f"{place['above']}.{numbers[0]}.{place['below']}"
                expert = numbers[1] if len(numbers) > 1 else None
            else:
                expert = numbers[0] if numbers else None
            if in_experts and adapter.part and a.dim() == _FROM_RIGHT and expert is None:
                raise CheckpointError(
                    f"There is no fingerprint of {self.folder}: {explanation([], [f'{adapter.key}.'])}"
                )
            if a.dim() == _FROM_RIGHT:
                yield module, numbers, expert, a, b
                continue
            for each in range(len(a)):
                yield module, (*numbers, each), each, a[each], b[each]

    def _layers(self, adapter: _Adapter) -> int:
        return min(self._places[key].shape[0] for factor in (adapter.a, adapter.b) for key in factor.tensors.values())

    def _factor(self, adapter: _Adapter, factor: _Factor, layer: int | None) -> torch.Tensor:
        import torch

        order = next((names for names in _SECTIONS if factor.tensors.keys() <= set(names)), tuple(factor.tensors))
        read = [
            read_layer(self.folder, factor.tensors[name], self._places[factor.tensors[name]], layer)
            for name in order
            if name in factor.tensors
        ]
        matrix = read[0] if len(read) == 1 else torch.cat(read, -2)
        key = next(iter(factor.tensors.values()))
        if factor is adapter.b and ".linear_fc1" in key and (adapter.part or not self._naming_of(adapter).gated):
            ranks = halved_by(key, {name: _as_saved(self._places[name]) for name in self._names(adapter)})
            if ranks > 1 and matrix.dim() > _FROM_RIGHT:
                raise CheckpointError(
                    f"{self.folder} has {key} in twice as many pieces of rows as there are ranks, and with an axis of "
                    "experts. No known release of Megatron-Bridge writes both, so the order of its rows is not known."
                )
            if ranks > 1:
                matrix = in_order(matrix, ranks)
        return matrix

    def _names(self, adapter: _Adapter) -> list[str]:
        return [*adapter.a.tensors.values(), *adapter.b.tensors.values()]

    def _naming_of(self, adapter: _Adapter) -> Naming:
        """Return the facts of the model, as far as they matter for `adapter`."""
        if self._naming is not None:
            return self._naming
        if adapter.part is None and adapter.module.endswith(".linear_fc1"):
            gated = self._gated_by_shape(adapter)
            if gated is None:
                raise FingerprintError(
                    f"{self.folder} does not say whether {adapter.module} is gate and up, so its rows have no names. "
                    "Put the run_config.yaml of the run beside it, or compare what clora.save_adapters writes."
                )
            return Naming(gated=gated)
        if adapter.part == "q" and self._has_output_gate_by_shape(adapter):
            raise FingerprintError(
                f"{self.folder} has an output gate in {adapter.module}, and does not say how many heads there are, by "
                "which Hugging Face orders its rows. Put the run_config.yaml of the run beside it, or compare what "
                "clora.save_adapters writes."
            )
        return Naming()

    def _has_output_gate_by_shape(self, adapter: _Adapter) -> bool:
        """Return whether q has twice as many rows as the `linear_proj` beside it has columns."""
        return self._ratio(adapter, adapter.module.replace(".linear_qkv", ".linear_proj")) == 2

    def _gated_by_shape(self, adapter: _Adapter) -> bool | None:
        ratio = self._ratio(adapter, adapter.module.replace(".linear_fc1", ".linear_fc2"))
        return None if ratio is None else ratio == 2

    def _ratio(self, adapter: _Adapter, following: str) -> int | None:
        """Return how many times as many rows B has as the module that reads its output has columns,
        1 or 2; None if neither, or if that module is not adapted.
        """
        rows = self._places[next(iter(adapter.b.tensors.values()))].shape[-2]
        for key, tensor in self._places.items():
            match = _KEY.fullmatch(key)
            if match and match["module"] == following and match["factor"] == "in":
                ratio, rest = divmod(rows, tensor.shape[-1])
                return ratio if not rest and ratio in {1, 2} else None
        return None

    def _scale(self, adapter: _Adapter, index: tuple[int, ...], rank: int) -> float:
        if self._saved is None:
            if self._alpha is None:
                raise FingerprintError(
                    f"{self.folder} does not say with which alpha its adapters were trained, and the scale is part of "
                    "the fingerprint. Name it: --alpha 32."
                )
            return self._alpha / rank
        # Megatron-Bridge's key of a plain linear has no `.adapter` at its end.
        for key in (adapter.key, f"{adapter.key}.adapter"):
            for at in (index, index[:1]):
                if scale := self._saved.scale_of(key, at):
                    return scale.factor
        raise CheckpointError(f"{self.folder} is damaged: its adapters.json has no scale of {adapter.key}.")


def _as_saved(tensor: StoredTensor) -> SavedTensor:
    starts = tuple(tuple(sorted({piece.start[dim] for piece in tensor.pieces})) for dim in range(len(tensor.shape)))
    return SavedTensor(tensor.shape, starts)
