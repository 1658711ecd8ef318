"""The tasks that the tests of distributed checkpoints run on each rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lora_models
import torch

from clora import CanonicalLoRA, CheckpointError, base_sharded_state, load_adapters, revert, save_adapters
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.definition import load_definition


def save(kind: str, axes: dict[str, int], folder: str, whole_model: bool, lora_fields: dict[str, Any]) -> list[str]:
    """Save a filled model, or its adapters alone, and return the keys of a whole model."""
    chunks = adapted(kind, Layout(**axes), lora_fields, {})
    if not whole_model:
        with quiet():
            save_adapters(chunks, folder)
        return []
    from megatron.core import dist_checkpointing

    state = _sharded(chunks)
    keys = sorted({tensor.key for tensor in state.values()})
    with quiet():
        _made(folder)
        dist_checkpointing.save(state, folder)
    return keys


def load(
    kind: str, axes: dict[str, int], folder: str, whole_model: bool, lora_fields: dict[str, Any]
) -> dict[str, int]:
    """Load into a model whose parameters are all zero, and return how many were restored."""
    chunks = adapted(kind, Layout(**axes), lora_fields, {})
    _zero(chunks, "" if whole_model else ".adapter.")
    if not whole_model:
        with quiet():
            load_adapters(chunks, folder)
        return _counted(chunks)
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.validation import StrictHandling

    with quiet():
        loaded = dist_checkpointing.load(_sharded(chunks), folder, strict=StrictHandling.RAISE_ALL)
    for number, chunk in enumerate(chunks):
        own = {key.partition(":")[2]: value for key, value in loaded.items() if key.startswith(f"{number}:")}
        chunk.load_state_dict(own, strict=True)
    return _counted(chunks)


def save_base(kind: str, axes: dict[str, int], folder: str) -> None:
    """Save a filled model that was never adapted."""
    from megatron.core import dist_checkpointing

    with quiet():
        _made(folder)
        dist_checkpointing.save(base_sharded_state(lora_models.build(kind, Layout(**axes), num_layers=4)), folder)


def load_base(kind: str, axes: dict[str, int], folder: str) -> dict[str, int]:
    """Load what `save_base` wrote into an adapted model, and return how many were restored."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.validation import StrictHandling

    chunks = adapted(kind, Layout(**axes), {}, {})
    _zero(chunks, "")
    with torch.no_grad(), quiet():
        for name, tensor in dist_checkpointing.load(
            base_sharded_state(chunks), folder, strict=StrictHandling.RAISE_ALL
        ).items():
            if "_extra_state" not in name:
                chunks[0].get_parameter(name).copy_(tensor)
    revert(chunks)
    return _counted(chunks)


def refused(kind: str, axes: dict[str, int], folder: str, lora_fields: dict[str, Any]) -> dict[str, Any]:
    """Return the message of `load_adapters`, and how many parameters are as before."""
    chunks = adapted(kind, Layout(**axes), lora_fields, {})
    message = ""
    try:
        with quiet():
            load_adapters(chunks, folder)
    except CheckpointError as error:
        message = str(error)
    return {"message": message, **_counted(chunks)}


def save_refused(kind: str, axes: dict[str, int], folder: str, with_adapters: bool) -> str:
    """Return the message of `save_adapters`."""
    layout = Layout(**axes)
    chunks = adapted(kind, layout, {}, {}) if with_adapters else lora_models.build(kind, layout, num_layers=4)
    try:
        with quiet():
            save_adapters(chunks, folder)
    except CheckpointError as error:
        return str(error)
    return ""


class _NoShards(torch.nn.Module):
    def sharded_state_dict(self, **_options: Any) -> dict[str, Any]:
        raise TypeError("no shards today")


def refused_with_a_broken_rank(kind: str, axes: dict[str, int], folder: str, rank: int) -> str:
    """Return the message of `save_adapters` when a module on one rank raises an error of Python."""
    chunks = adapted(kind, Layout(**axes), {}, {})
    if torch.distributed.get_rank() == rank:
        chunks[0].broken = _NoShards()
    try:
        with quiet():
            save_adapters(chunks, folder)
    except CheckpointError as error:
        return str(error)
    return ""


def adapted(kind: str, layout: Layout, lora_fields: dict[str, Any], model_fields: dict[str, Any]) -> list[Any]:
    """Return this rank's chunks, adapted and filled."""
    chunks = lora_models.build(kind, layout, **{"num_layers": 4, **model_fields})
    with quiet():
        CanonicalLoRA(**{"target_modules": lora_models.TARGETS, "dim": 4, **lora_fields})(chunks)
    for chunk in chunks:
        lora_models.fill(chunk, only=".adapter.", std=0.2)
    return chunks


def _made(folder: str) -> None:
    if torch.distributed.get_rank() == 0:
        Path(folder).mkdir()
    torch.distributed.barrier()


def _sharded(chunks: list[Any]) -> dict[str, Any]:
    from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group

    metadata = ensure_metadata_has_dp_cp_group(None)
    return {
        f"{number}:{name}": tensor
        for number, chunk in enumerate(chunks)
        for name, tensor in chunk.sharded_state_dict(metadata=metadata).items()
    }


def _zero(chunks: list[Any], only: str) -> None:
    with torch.no_grad():
        for chunk in chunks:
            for name, parameter in chunk.named_parameters():
                if only in name:
                    parameter.zero_()


def _counted(chunks: list[Any]) -> dict[str, int]:
    """Compare every parameter, bit for bit, with the value that belongs to its name.

    The values come from `lora_models`, whose rules share nothing with those of clora.
    """
    equal = wrong = 0
    names = []
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            place = lora_models.Place(chunk, name, parameter)
            std = 0.2 if ".adapter." in name else None
            expected = place.shard(lora_models.whole(place.name, place.shape, std)).to(parameter.dtype)
            if torch.equal(parameter.detach(), expected):
                equal += 1
            else:
                wrong += 1
                names.append(place.name)
    return {"equal": equal, "wrong": wrong, "names": names}


def save_job(
    model: str, fields: dict[str, Any], axes: dict[str, int], folder: str, lora_fields: dict[str, Any], holds: str
) -> None:
    """Save what a job builds: its `base`, its `adapters`, or `both`, as a trainer does. The base
    may have `a key for each layer`.
    """
    layout = Layout(**axes)
    definition = load_definition(model).override(fields)
    with quiet():
        from megatron.core import dist_checkpointing
        from megatron.core.dist_checkpointing.mapping import ShardedTensor

        from clora_inspect.sources.build import build_chunks

        chunks = build_chunks(definition, layout)
        if holds in ("adapters", "both"):
            CanonicalLoRA(**lora_fields)(chunks)
        if holds == "adapters":
            save_adapters(chunks, folder)
            return
        state = base_sharded_state(chunks, per_layer=True) if holds == "a key for each layer" else _sharded(chunks)
        # What a training script keeps beside the model.
        state |= {
            f"optimizer:{name}": replace(tensor, key=f"optimizer.state.exp_avg.{tensor.key}")
            for name, tensor in state.items()
            if isinstance(tensor, ShardedTensor)
        }
        state["args"] = {"iteration": 10}
        _made(folder)
        dist_checkpointing.save(state, folder)
