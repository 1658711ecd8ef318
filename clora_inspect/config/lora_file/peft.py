"""Translate an `adapter_config.json` of PEFT into arguments of `CanonicalLoRA`.

PEFT has one pair A and B for each linear of the Hugging Face model. Canonical LoRA has the same,
except where Hugging Face has one linear for what is several here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import CloraError, HFAdapterError
from clora.families.base.model_kind import ModelKind
from clora.folders.peft_config import PeftLora, peft_lora
from clora.layer_pattern import hybrid_layer
from clora_inspect.config.lora_file.errors import LoRAFileError
from clora_inspect.config.lora_file.hf_candidates import Candidate, candidates
from clora_inspect.config.lora_file.peft_selection import Selection
from clora_inspect.job.layer_ranges import runs_of
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from clora_inspect.sources.definition import ModelDefinition

_OTHERWISE = "Take it out of the file to plan the rest as canonical LoRA"
_EXPERTS = "mlp.experts"


class _Dropout(msgspec.Struct, frozen=True):
    lora_dropout: float = 0.0


def peft_arguments(
    fields: Mapping[str, Any], path: Path, definition: ModelDefinition, inside: str | None, *, as_canonical: bool
) -> dict[str, Any]:
    """Return the arguments of the `CanonicalLoRA` that adapts what PEFT would adapt.

    Args:
        fields: the object in the file.
        path: the file, for messages.
        definition: the model of the job.
        inside: `model_type` of the model of several modalities that it is the text model of.
        as_canonical: True to give each part of a linear that Hugging Face has fused an adapter of
            its own, where PEFT has one together.

    Raises:
        LoRAFileError: a field cannot be honoured, or no linear is selected.
    """
    try:
        config = peft_lora(fields, path, otherwise=_OTHERWISE)
        dropout = msgspec.convert(fields, _Dropout).lora_dropout
    except (HFAdapterError, msgspec.ValidationError) as error:
        raise LoRAFileError(str(error) if isinstance(error, CloraError) else f"{path}: {error}.") from None
    first_values = _first_values(config, path)
    selection = Selection(fields, path)
    selected, others = _divided(_candidates_of(definition, inside, path), selection, path, definition)
    _refuse_fused(selected, path, as_canonical=as_canonical)
    rank, alpha = _one_scale(config, selected, path)
    arguments: dict[str, Any] = {
        "target_modules": list(_targets(selected, others, definition)),
        "dim": rank,
        "alpha": alpha,
        "dropout": dropout,
        **first_values,
    }
    if any(each.parent.startswith(_EXPERTS) for each in selected):
        # PEFT gives each expert's linear a pair of its own.
        arguments["share_expert_adapters"] = False
    return arguments


def _first_values(config: PeftLora, path: Path) -> dict[str, str]:
    init = config.init_lora_weights
    if init is True or init is None:
        return {"lora_A_init_method": "kaiming"}
    raise LoRAFileError(
        f"{path} has init_lora_weights = {init!r}, first values that canonical LoRA does not draw. Write true for "
        "PEFT's default, which is 'kaiming' here."
    )


def _candidates_of(definition: ModelDefinition, inside: str | None, path: Path) -> list[Candidate]:
    if definition.is_user_function:
        raise LoRAFileError(
            f"{path} names linears of a Hugging Face model, and {definition.name} is a function, of which no Hugging "
            "Face names are known. Write target_modules in megatron-core's names: linear_q, linear_proj, ..."
        )
    if definition.model_type is None:
        raise LoRAFileError(
            f"{path} names linears of a Hugging Face model, and {definition.name} does not tell which one it is. Name "
            "the config.json of the model as JOB, or write target_modules in megatron-core's names."
        )
    # Sizes that are none would make the list endless.
    definition.check(Layout())
    return list(candidates(definition, inside))


def _divided(
    found: Iterable[Candidate], selection: Selection, path: Path, definition: ModelDefinition
) -> tuple[list[Candidate], list[Candidate]]:
    """Return the linears that are selected, and the others.

    Raises:
        LoRAFileError: nothing is selected, an entry of the list names nothing, or some of the
            experts of a layer are selected.
    """
    found = list(found)
    _refuse_unknown(found, selection, path, definition)
    selected: list[Candidate] = []
    others: list[Candidate] = []
    for each in found:
        keys = each.keys if selection.tells_experts_apart else each.keys[: each.members]
        wanted = [key for key in keys if selection.selects(key)]
        if wanted and each.members > 1 and len(wanted) * each.members == len(keys):
            raise LoRAFileError(
                f"{path} selects one of gate and up of the experts ({wanted[0]}), and grouped experts have one pair A "
                "and B for both. Select both, or use --set model.moe_grouped_gemm=false."
            )
        if wanted and len(wanted) < len(keys):
            raise LoRAFileError(
                f"{path} selects {len(wanted)} of the {len(keys)} linears of the experts of a layer ({wanted[0]}): "
                "canonical LoRA adapts all experts of a layer or none. Select the others too, or none."
            )
        (selected if wanted else others).append(each)
    if not selected:
        raise LoRAFileError(
            f"{path}: target_modules, with exclude_modules and layers_to_transform, selects no linear of this "
            f"{definition.model_type}. Its linears: {_known(found)}."
        )
    return selected, others


def _refuse_unknown(found: list[Candidate], selection: Selection, path: Path, definition: ModelDefinition) -> None:
    if not (selection.entries or selection.is_all_linear) and selection.has_no_targets:
        raise LoRAFileError(
            f"{path} has no target_modules: PEFT then has a default for each kind of model. Write the linears that you "
            f"mean: {_known(found)}."
        )
    for entry in selection.entries:
        if not any(selection.names(entry, key) for each in found for key in each.keys):
            raise LoRAFileError(
                f"{path}: target_modules has {entry[:80]!r}, which is no linear of a {definition.model_type} that "
                f"canonical LoRA adapts. Its linears: {_known(found)}."
            )


def _known(found: Iterable[Candidate]) -> str:
    return ", ".join(dict.fromkeys(key.rpartition(".")[2] for each in found for key in each.keys[:1]))


def _refuse_fused(selected: Iterable[Candidate], path: Path, *, as_canonical: bool) -> None:
    """Refuse linears that are one in one library and several in the other, unless asked for.

    Raises:
        LoRAFileError: there is one; the message says which.
    """
    other = next((each for each in selected if each.is_fused or each.members > 1), None)
    if other is None or as_canonical:
        return
    if other.is_fused:
        said = (
            f"{other.keys[0]}, one linear there with one pair A and B. Canonical LoRA has a pair for each of "
            f"{', '.join(other.names)}"
        )
    else:
        said = (
            f"{' and '.join(other.keys[: other.members])}, with a pair A and B each. Canonical LoRA has one pair for "
            "gate and up of grouped experts (--set model.moe_grouped_gemm=false has two)"
        )
    raise LoRAFileError(
        f"{path} selects {said}, which is another adapter. To plan that one: --lora-as-canonical, or "
        "lora-as-canonical = true in the job."
    )


def _one_scale(config: PeftLora, selected: Iterable[Candidate], path: Path) -> tuple[int, float]:
    """Return dim and alpha, which all linears share here.

    Raises:
        LoRAFileError: linears have different ones.
    """
    scales = {(config.rank(key), config.alpha(key)): key for each in selected for key in each.keys}
    ((rank, alpha), first), *different = scales.items()
    if different:
        (other_rank, other_alpha), other = different[0]
        name = "rank_pattern" if other_rank != rank else "alpha_pattern"
        raise LoRAFileError(
            f"{path} has {name}: {first} has r = {rank} and lora_alpha = {alpha:g}, {other} has r = {other_rank} and "
            f"lora_alpha = {other_alpha:g}. CanonicalLoRA has one dim and one alpha for all. {_OTHERWISE}."
        )
    # Rank-stabilised LoRA scales by alpha / sqrt(r), and CanonicalLoRA by alpha / dim.
    return rank, alpha * math.sqrt(rank) if config.use_rslora else alpha


def _targets(selected: list[Candidate], others: list[Candidate], definition: ModelDefinition) -> Iterator[str]:
    """Yield the entries of `target_modules` that select all of `selected` and none of `others`."""
    # Layers of multi-token prediction have the same names, and PEFT does not see them.
    stem = "decoder.*." if definition.config.get("mtp_num_layers") else ""
    left_alone = {name for each in others for name in each.names}
    partly: dict[tuple[str, str], list[int]] = {}
    whole: dict[str, None] = {}
    for each in selected:
        for name in each.names:
            if name not in left_alone or each.layer is None:
                whole[name if each.layer is None else f"{stem}{name}"] = None
            else:
                partly.setdefault((each.parent, name), []).append(each.layer)
    yield from whole
    is_hybrid = definition.kind is ModelKind.HYBRID
    for (parent, name), layers in partly.items():
        for ends in runs_of(layers):
            # The layers of a HybridModel between those of a run are of the other half.
            first, last = (hybrid_layer(end, parent) if is_hybrid else end for end in ends)
            number = str(first) if first == last else f"{{{first}..{last}}}"
            yield f"decoder.layers.{number}.{parent}.{name}"
