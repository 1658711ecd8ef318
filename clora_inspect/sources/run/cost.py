"""Read off a run what its ranks will need: the micro-batches of a step, how gradients and optimizer
states are kept, and the fields of the model that change no module, but memory. Pure.

The sections of the file are those of Megatron-Bridge's `ConfigContainer`. Older releases lack some.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError
from clora.limits import LARGEST_WORKLOAD
from clora_inspect.sources.run.file import read_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODEL_FIELDS = (
    *("bias_activation_fusion", "apply_rope_fusion", "cross_entropy_loss_fusion", "cross_entropy_fusion_impl"),
    *("activation_func_fp8_input_store", "moe_permute_fusion", "moe_layer_recompute", "deallocate_pipeline_outputs"),
    *("moe_pad_expert_input_to_capacity", "microbatch_group_size_per_vp_stage", "tp_comm_overlap", "cp_comm_type"),
    *("fp8", "fp4", "cpu_offloading", "fine_grained_activation_offloading", "cuda_graph_impl", "enable_cuda_graph"),
    *("external_cuda_graph", "hybrid_context_parallel", "overlap_moe_expert_parallel_comm", "attention_backend"),
    *("num_microbatches_with_partial_activation_checkpoints", "symmetric_ar_type", "use_kitchen_attention"),
    *("moe_router_fusion", "use_te_activation_func", "use_transformer_engine_op_fuser", "moe_paged_stash"),
    *("overlap_dispatch_backward_with_experts_wgrad", "moe_expert_rank_capacity_factor", "moe_dispatch_fwd_dtype"),
    *("gtp_weight_remat_size", "expert_gtp_weight_remat_size"),
)
"""Fields that are not built, and that change what a rank needs, or that nobody can count."""

ATTENTION_BACKENDS = {1: "flash", 2: "fused", 3: "unfused", 4: "local", 5: "auto"}
"""Number of megatron-core's `AttnBackend` in a run -> its name."""

STATES = {"adam": 2, "sgd": 1}
"""Optimizer -> moments that it keeps for each parameter."""

_FP32 = 4
_BYTES = {"torch.float32": _FP32, "torch.float16": 2, "torch.bfloat16": 2, "torch.uint8": 1}

SIZES = {
    "seq_length": (("dataset", "seq_length"), ("dataset", "sequence_length"), ("model", "seq_length")),
    "micro_batch_size": (("train", "micro_batch_size"),),
    "global_batch_size": (("train", "global_batch_size"),),
}
"""Field of `Workload` -> the keys that have it, the first one first."""

SHARDED = {
    ("ddp", "use_megatron_fsdp"),
    ("ddp", "use_custom_fsdp"),
    ("dist", "use_megatron_fsdp"),
    ("dist", "use_torch_fsdp2"),
}
"""Keys that split weights over data-parallel ranks."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """Settings of a run beside its model and its layout."""

    workload: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Workload`."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model's config."""
    refused: str | None = None
    """Why nobody can count what it needs, as a sentence; None if it can be counted."""


def cost_of_run(path: Path | None) -> RunCost:
    """Return what the file of a run says, and nothing for None or a file that cannot be read."""
    if path is None:
        return RunCost()
    try:
        run = read_run(path)
    except CloraError:
        # Planning raises the same error.
        return RunCost()
    return RunCost(_workload(run), _fields(run), _refused(run))


def _workload(run: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _first(run, *keys) for name, keys in SIZES.items()}
    workload = {name: value for name, value in found.items() if _is_size(value)}
    flags = {
        "use_distributed_optimizer": _first(
            run, *((part, "use_distributed_optimizer") for part in ("ddp", "optimizer"))
        ),
        "grad_reduce_in_fp32": _first(run, *((part, "grad_reduce_in_fp32") for part in ("ddp", "mixed_precision"))),
    }
    workload |= {name: value for name, value in flags.items() if isinstance(value, bool)}
    optimizer = _section(run, "optimizer")
    if _kind(optimizer) in STATES:
        workload["optimizer_state_bytes"] = _state_bytes(optimizer)
    return workload


def _state_bytes(optimizer: Mapping[str, Any]) -> int:
    """Return the bytes of the states of a parameter in 16 bits."""
    moments = STATES[_kind(optimizer)]
    if optimizer.get("use_precision_aware_optimizer") is not True:
        return _FP32 + moments * _FP32
    weight = _bytes(optimizer.get("main_params_dtype"))
    if weight == _FP32 and optimizer.get("store_param_remainders", True):
        # The other 16 bits are those of the weight itself.
        weight = 2
    return weight + sum(_bytes(optimizer.get(name)) for name in ("exp_avg_dtype", "exp_avg_sq_dtype")[:moments])


def _fields(run: Mapping[str, Any]) -> dict[str, Any]:
    model = _section(run, "model")
    # Newer releases keep the config of megatron-core in a section of its own.
    values = {**_section(model, "transformer"), **model}
    found = {name: values[name] for name in MODEL_FIELDS if values.get(name) is not None}
    backend = found.pop("attention_backend", None)
    number = backend.get("_args_") if isinstance(backend, dict) else None
    if isinstance(number, list) and number and isinstance(number[0], int) and number[0] in ATTENTION_BACKENDS:
        found["attention_backend"] = ATTENTION_BACKENDS[number[0]]
    if _section(run, "comm_overlap").get("tp_comm_overlap") is True:
        found["tp_comm_overlap"] = True
    return {name: value for name, value in found.items() if isinstance(value, (bool, int, float, str, list))}


def _refused(run: Mapping[str, Any]) -> str | None:
    for part, name in sorted(SHARDED):
        if _section(run, part).get(name) is True:
            return f"its run has {part}.{name} = true, which splits weights over data-parallel ranks."
    for keys in SIZES.values():
        part, name = next((key for key in keys if _first(run, key) is not None), keys[0])
        value = _first(run, (part, name))
        if value is not None and not _is_size(value):
            return (
                f"its run has {part}.{name} = {value!r:.80}, and a whole number from 1 to {LARGEST_WORKLOAD:,} is read."
            )
    optimizer = _section(run, "optimizer")
    if optimizer.get("optimizer_cpu_offload") is True:
        return "its run has optimizer.optimizer_cpu_offload = true, which keeps a part of the states on the CPU."
    kind = _kind(optimizer)
    if kind not in STATES:
        return f"its run has optimizer.optimizer = {kind[:80]}, whose states are not known here."
    return None


def _kind(optimizer: Mapping[str, Any]) -> str:
    return str(optimizer.get("optimizer", "adam"))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST_WORKLOAD


def _bytes(dtype: Any) -> int:
    target = dtype.get("_target_") if isinstance(dtype, dict) else dtype
    return _BYTES.get(target, _FP32) if isinstance(target, str) else _FP32


def _first(run: Mapping[str, Any], *keys: tuple[str, str]) -> Any:
    """Return the first of these keys that the run has a value for."""
    return next((value for part, name in keys if (value := _section(run, part).get(name)) is not None), None)


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}
