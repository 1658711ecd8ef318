"""Read off a run what its ranks will need: the micro-batches of a step, how gradients and optimizer
states are kept, and the fields of the model that change no module, but memory. Pure.

The sections of the file are those of Megatron-Bridge's `ConfigContainer`. Older releases lack some.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError
from clora_inspect.sources.run.file import read_run
from clora_inspect.sources.run.kinds import COST_FIELDS, DTYPE_BYTES, backend_of, dtype_of
from clora_inspect.sources.run.model import model_of_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STATES = {"adam": 2, "sgd": 1}
"""Optimizer -> moments that it keeps for each parameter."""

_FP32 = 4

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
    """Return what the file of a run says, and nothing for None or a run that cannot be planned."""
    if path is None:
        return RunCost()
    try:
        run = read_run(path)
        model_of_run(path)
    except CloraError:
        # Planning raises the same error.
        return RunCost()
    return RunCost(_workload(run), _fields(run), _refused(run))


def _workload(run: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _first(run, *keys) for name, keys in SIZES.items()}
    distributed = [_section(run, part).get("use_distributed_optimizer") for part in ("ddp", "optimizer")]
    # Megatron-Bridge turns both on where one of them is, and mixed_precision overwrites ddp.
    found["use_distributed_optimizer"] = True if True in distributed else _first_of(distributed)
    found["grad_reduce_in_fp32"] = _first(run, *((part, "grad_reduce_in_fp32") for part in ("mixed_precision", "ddp")))
    optimizer = _section(run, "optimizer")
    if _kind(optimizer) in STATES:
        found["optimizer_state_bytes"] = _state_bytes(optimizer)
    return {name: value for name, value in found.items() if value is not None}


def _state_bytes(optimizer: Mapping[str, Any]) -> int:
    """Return the bytes of the states of a parameter in 16 bits."""
    moments = STATES[_kind(optimizer)]
    if optimizer.get("use_precision_aware_optimizer") is not True:
        return _FP32 + moments * _FP32
    weight = _bytes(optimizer.get("main_params_dtype"))
    if weight == _FP32 and optimizer.get("store_param_remainders") is not False:
        # The other 16 bits are those of the weight itself.
        weight = 2
    return weight + sum(_bytes(optimizer.get(name)) for name in ("exp_avg_dtype", "exp_avg_sq_dtype")[:moments])


def _fields(run: Mapping[str, Any]) -> dict[str, Any]:
    model = _section(run, "model")
    # Newer releases keep the config of megatron-core in a section of its own.
    values = {**_section(model, "transformer"), **model}
    found = {name: values[name] for name in COST_FIELDS if values.get(name) is not None}
    if "attention_backend" in found:
        found["attention_backend"] = backend_of(found["attention_backend"])
    if _section(run, "comm_overlap").get("tp_comm_overlap") is True:
        found["tp_comm_overlap"] = True
    return found


def _refused(run: Mapping[str, Any]) -> str | None:
    for part, name in sorted(SHARDED):
        if _section(run, part).get(name) is True:
            return f"its run has {part}.{name} = true, which splits weights over data-parallel ranks."
    precision = run.get("mixed_precision")
    if isinstance(precision, str):
        return (
            f"its run has mixed_precision = {precision[:80]}, a recipe that sets fields when the run starts. Name the "
            "file that the run itself writes."
        )
    optimizer = _section(run, "optimizer")
    if optimizer.get("optimizer_cpu_offload") is True:
        return "its run has optimizer.optimizer_cpu_offload = true, which keeps a part of the states on the CPU."
    kind = _kind(optimizer)
    if kind not in STATES:
        return f"its run has optimizer.optimizer = {kind[:80]}, whose states are not known here."
    return None


def _kind(optimizer: Mapping[str, Any]) -> str:
    kind = optimizer.get("optimizer")
    return "adam" if kind is None else str(kind)


def _bytes(dtype: Any) -> int:
    return DTYPE_BYTES.get(dtype_of(dtype) or "", _FP32)


def _first(run: Mapping[str, Any], *keys: tuple[str, str]) -> Any:
    """Return the first of these keys that the run has a value for."""
    return _first_of([_section(run, part).get(name) for part, name in keys])


def _first_of(values: Sequence[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}
