"""Run one micro-batch on a rank, and count what its process groups are asked to move."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import tiny_models
import torch
from torch import distributed

from clora import CanonicalLoRA
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Sums = dict[str, int]
""""axis collective phase" -> bytes."""

# Method of a process group -> the collective, and which argument has its whole buffer.
METHODS = {
    "allreduce": ("all-reduce", 0),
    "allgather": ("all-gather", 0),
    "_allgather_base": ("all-gather", 0),
    "all_gather_single": ("all-gather", 0),
    "reduce_scatter": ("reduce-scatter", 1),
    "_reduce_scatter_base": ("reduce-scatter", 1),
    "reduce_scatter_single": ("reduce-scatter", 1),
    "alltoall_base": ("all-to-all", 1),
    "all_to_all_single": ("all-to-all", 1),
    "alltoall": ("all-to-all", 1),
    "allreduce_coalesced": ("all-reduce", 0),
    "allgather_into_tensor_coalesced": ("all-gather", 0),
    "all_gather_single_coalesced": ("all-gather", 0),
    "reduce_scatter_tensor_coalesced": ("reduce-scatter", 1),
    "reduce_scatter_single_coalesced": ("reduce-scatter", 1),
    "send": ("send", 0),
    "broadcast": ("broadcast", 0),
}
DESCRIPTIONS = {
    "TENSOR_MODEL_PARALLEL_GROUP": "tp",
    "EXPERT_MODEL_PARALLEL_GROUP": "ep",
    "EXPERT_TENSOR_PARALLEL_GROUP": "etp",
    "EXPERT_TENSOR_AND_MODEL_PARALLEL_GROUP": "etp-ep",
    "TENSOR_AND_CONTEXT_PARALLEL_GROUP": "tp-cp",
    "CONTEXT_PARALLEL_GROUP": "cp",
    "PIPELINE_MODEL_PARALLEL_GROUP": "pp",
    "DATA_PARALLEL_GROUP_WITH_CP": "dp-cp",
    "EXPERT_DATA_PARALLEL_GROUP": "expert dp",
}


class Hooked:
    """Sums up what real groups are asked to move. `phase` is set by whoever runs the model."""

    def __init__(self) -> None:
        self.phase = "forward"
        self.sums: Counter[str] = Counter()

    def count(self, group: Any, name: str, buffer: Any) -> None:
        if group.size() > 1:
            size = sum(tensor.numel() * tensor.element_size() for tensor in _flat(buffer))
            self.sums[f"{DESCRIPTIONS[group.group_desc]} {name} {self.phase}"] += size


@contextmanager
def hooks_on_groups() -> Iterator[Hooked]:
    """Hook every process group of torch, at the methods that its backends offer."""
    hooked = Hooked()
    group_class: Any = distributed.ProcessGroup
    # Which names there are depends on the release of torch.
    originals = {name: getattr(group_class, name) for name in METHODS if hasattr(group_class, name)}

    def hook(method: str) -> Callable[..., Any]:
        name, index = METHODS[method]

        def call(group: Any, *args: Any, **kwargs: Any) -> Any:
            hooked.count(group, name, args[index])
            return originals[method](group, *args, **kwargs)

        return call

    with replaced(group_class, {method: hook(method) for method in originals}):
        yield hooked


def built(kind: str, layout: Layout, device: str, *, adapted: bool) -> Any:
    """Return the chunk of this rank in float32, with adapters or with all weights trained."""
    with quiet():
        model = tiny_models.build(kind, layout, device, dtype=torch.float32)
        if adapted:
            # No multiple of what buffers are padded to, where no axis has to divide it.
            CanonicalLoRA(dim=5 if layout.tp == layout.expert_tp == 1 else 4)(model)
    return model


def hooked_sums(kind: str, axes: dict[str, Any], adapted: bool) -> Sums:
    """Return what hooks count on this rank in a forward and a backward."""
    layout = Layout(**axes)
    model = built(kind, layout, "cpu", adapted=adapted)
    with quiet(), hooks_on_groups() as hooked:
        tokens, positions = (each[:, : tiny_models.SEQUENCE // layout.cp] for each in tiny_models.batch())
        loss = model(tokens, positions, None, labels=tokens).mean()
        hooked.phase = "backward"
        loss.backward()
    return dict(hooked.sums)


def _flat(buffer: Any) -> Iterator[torch.Tensor]:
    if isinstance(buffer, torch.Tensor):
        yield buffer
    else:
        for item in buffer:
            yield from _flat(item)


def hooked_pipeline(axes: dict[str, Any]) -> Sums:
    """Return what this rank sends along the pipeline for a micro-batch, with adapters, in
    megatron-core's schedule.
    """
    import lora_models

    from clora_inspect.verify.model.batch import token_batch
    from clora_inspect.verify.model.running import backward

    layout = Layout(**axes)
    with quiet():
        chunks = lora_models.build("gqa", layout, dtype=torch.float32, num_layers=4)
        CanonicalLoRA(dim=4)(chunks)
        batch = token_batch(tiny_models.SEQUENCE, 64, seed=1, rows=layout.pp)
        with hooks_on_groups() as hooked:
            backward(chunks, batch)
    return {"sent": sum(size for key, size in hooked.sums.items() if key.startswith("pp send"))}


def hooked_step(kind: str, axes: dict[str, Any], distributed_optimizer: bool) -> Sums:
    """Return what this rank sends once a step for the gradients of the adapters."""
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )

    model = built(kind, Layout(**axes), "cpu", adapted=True)
    with quiet():
        config = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, use_distributed_optimizer=distributed_optimizer
        )
        wrapped = DistributedDataParallel(model.config, config, model)
        wrapped.zero_grad_buffer()
        tiny_models.loss_of(wrapped).mean().backward()
        with hooks_on_groups() as hooked:
            finalize_model_grads([wrapped])
            if distributed_optimizer:
                hooked.phase = "gather"
                wrapped.start_param_sync(force_sync=True)
        wrapped.grad_accs.clear()
    return dict(hooked.sums)
