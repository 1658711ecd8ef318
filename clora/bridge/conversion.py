"""Let Megatron-Bridge's conversion to Hugging Face merge every adapter, or raise.

It merges the adapters of a base weight into what it exports for that weight. Two things would leave
adapters out or put them where they do not belong, and nothing would say so:

- A base weight that is not exported under its name below `to_wrap`: the list of what is exported
  was made before the model was adapted, or a tied output layer is not exported at all.
- A fused linear of which some parts are adapted. Releases up to main of August 2026 take a single
  part for the adapter of the whole, and end with an error for two of three.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from clora.adapters import GroupedExpertLinearAdapter
from clora.errors import MergeError
from clora.linears import chunks_of
from clora.wrappers import BASE, Adapted, adapted_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_CONVERSION = "megatron.bridge.models.conversion"
_PREPARED = "prepared_by_clora"


def prepare_conversion() -> None:
    """Make Megatron-Bridge's conversion complete, once it is imported."""
    peft_bridge, model_bridge = (sys.modules.get(f"{_CONVERSION}.{name}") for name in ("peft_bridge", "model_bridge"))
    if peft_bridge is None or model_bridge is None:
        return
    owner: Any = model_bridge.MegatronModelBridge
    if _PREPARED in vars(owner):
        return
    setattr(owner, _PREPARED, True)
    peft: Any = peft_bridge.MegatronPeftBridge
    peft._merge_lora_adapter_weights = _merging_each_part(peft._merge_lora_adapter_weights, peft_bridge)  # noqa: SLF001
    owner.stream_weights_megatron_to_hf = _merging_all(owner.stream_weights_megatron_to_hf)
    foreign: Any = peft_bridge
    foreign.get_adapter_attributes_from_linear = _asking_the_adapter(foreign.get_adapter_attributes_from_linear)


def refuse_unexported(module: Adapted) -> None:
    """Raise unless Megatron-Bridge exports the adapters of `module` as they are.

    Raises:
        MergeError: they are in the weights already, or this release cannot export them.
    """
    path = module.placements[0].module
    if module.is_merged:
        raise MergeError(
            f"{path} is merged: Megatron-Bridge would export its adapter a second time, on top of a weight that holds "
            "it. Call clora.unmerge_adapters(model) first; or clora.merge_and_unload(model), which leaves a model "
            "without adapters."
        )
    peft_bridge: Any = sys.modules[f"{_CONVERSION}.peft_bridge"]
    if any(isinstance(adapter, GroupedExpertLinearAdapter) for adapter in module.adapters.values()) and (
        "requires_expert_splits" not in peft_bridge.AdapterWeightConversionTask.__dataclass_fields__
    ):
        raise MergeError(
            f"{path} has adapters for each expert, and this release of Megatron-Bridge exports only experts that share "
            "one. Export the adapters with clora.export_hf, or the merged model after clora.merge_and_unload(model)."
        )


def _asking_the_adapter(describe: Callable[..., Any]) -> Callable[..., Any]:
    """Return `describe`, by which releases up to 0.4 learn how an adapter is split over ranks.

    They look at the base, whose weight may be whole where its adapter is split.
    """

    def get_adapter_attributes_from_linear(m: Any, *args: Any, **named: Any) -> Any:
        if not isinstance(m, Adapted):
            return describe(m, *args, **named)
        adapter = next(iter(m.adapters.values()))
        return SimpleNamespace(
            input_is_parallel=adapter.input_is_parallel, base_linear_is_parallel=adapter.base_linear_is_parallel
        )

    return get_adapter_attributes_from_linear


def _merging_all(stream: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Return `stream`, which raises before it begins if it would leave an adapter out."""

    def stream_weights_megatron_to_hf(
        self: Any,
        megatron_model: Any,
        hf_pretrained: Any,
        *args: Any,
        conversion_tasks: list[Any] | None = None,
        merge_adapter_weights: bool = True,
        **named: Any,
    ) -> Iterator[Any]:
        if merge_adapter_weights and _has_adapters(megatron_model):
            chunks = megatron_model if isinstance(megatron_model, list) else [megatron_model]
            if conversion_tasks is None:
                conversion_tasks = self.build_conversion_tasks(hf_pretrained, chunks)
            exported = {task.global_param_name for task in conversion_tasks if task is not None}
            _refuse_left_out(self.build_adapter_conversion_tasks(chunks), exported)
        yield from stream(
            self,
            megatron_model,
            hf_pretrained,
            *args,
            conversion_tasks=conversion_tasks,
            merge_adapter_weights=merge_adapter_weights,
            **named,
        )

    return stream_weights_megatron_to_hf


def _refuse_left_out(adapted: Any, exported: set[str]) -> None:
    left_out = [base for base in adapted if not any(name.startswith(f"{base}.{BASE}.weight") for name in exported)]
    if left_out:
        raise MergeError(
            f"The weight of {left_out[0]} is not to be exported under the name that it has since it was adapted, so "
            f"{len(left_out)} of {len(adapted)} adapted linears would be exported without their adapters. Make "
            "conversion_tasks after surgery; an output layer whose weight is tied to the embedding cannot be merged: "
            "export its adapter unmerged (export_adapter_weights)."
        )


def _has_adapters(model: Any) -> bool:
    return any(True for chunk in chunks_of(model) for _ in adapted_modules(chunk))


def _merging_each_part(merge: Callable[..., dict[str, Any]], peft_bridge: Any) -> Callable[..., dict[str, Any]]:
    """Return `merge`, which gives each part of a fused linear its own adapter."""
    part_by_suffix: dict[str, str] = peft_bridge.ADAPTER_NAME_MAP

    def part_of(name: str) -> str | None:
        return next((part for suffix, part in part_by_suffix.items() if name.endswith(suffix)), None)

    def _merge_lora_adapter_weights(
        self: Any, megatron_model: Any, converted_weights_dict: dict[str, Any], adapter_weights: list[Any]
    ) -> dict[str, Any]:
        parts = {weight.adapter_key for weight in adapter_weights if weight.adapter_key}
        if not parts or not converted_weights_dict:
            return merge(self, megatron_model, converted_weights_dict, adapter_weights)
        own = {name: weight for name, weight in converted_weights_dict.items() if part_of(name) in parts}
        if missing := parts - {part_of(name) for name in own}:
            raise MergeError(
                f"{adapter_weights[0].global_base_prefix} has {min(missing)}, and Megatron-Bridge exports no weight "
                f"that it belongs to ({', '.join(converted_weights_dict)}). Call clora.merge_and_unload(model) and "
                "export the model then, or export the adapters with clora.export_hf."
            )
        merged = self._merge_canonical_adapter_from_weights(megatron_model, own, adapter_weights)
        return {**converted_weights_dict, **merged}

    return _merge_lora_adapter_weights
