"""Count what one rank holds all the time: weights, gradients, optimizer states, buffers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clora_inspect.job.rank_memory import MemoryLine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import nn

    from clora_inspect.job.layout import Layout
    from clora_inspect.job.workload import Workload

FP32 = 4
"""Bytes of one gradient, and of the copy of a weight in 16 bits. megatron-core's
DistributedDataParallel accumulates gradients in fp32 (`grad_reduce_in_fp32`, which Megatron-LM's
and Megatron-Bridge's recipes set with bf16).
"""
ALIGNMENT = 64
"""Elements. With the distributed optimizer each parameter starts at a multiple of it in its
gradient buffer (`param_and_grad_buffer.py` of megatron-core).
"""


def static_lines(
    chunks: Sequence[nn.Module], adapters: frozenset[str], layout: Layout, workload: Workload
) -> Iterator[MemoryLine]:
    """Yield the lines of what one rank holds all the time.

    Args:
        chunks: the rank's chunks, as they are trained.
        adapters: names of parameters of adapters.
        layout: the layout of the whole job.
        workload: says how optimizer states are kept.
    """
    yield from _weights(chunks, adapters)
    trained = {False: 0, True: 0}
    gradients = states = 0
    for name, parameter in _parameters(chunks):
        if parameter.requires_grad:
            elements = parameter.numel()
            is_expert = _is_expert(name, parameter)
            trained[is_expert] += elements
            padded = -(-elements // ALIGNMENT) * ALIGNMENT if workload.use_distributed_optimizer else elements
            gradients += padded * (FP32 if workload.grad_reduce_in_fp32 else parameter.element_size())
            states += (
                elements * state_bytes(parameter, workload) // optimizer_ranks(layout, workload, is_expert=is_expert)
            )
    kept = f"{FP32} B each: fp32" if workload.grad_reduce_in_fp32 else "in the dtype of their weights"
    yield MemoryLine(
        part="gradients",
        what=f"gradients of {sum(trained.values()):,} trained parameters",
        bytes=gradients,
        source=f"{kept}, as DistributedDataParallel accumulates them; with its padding",
        counted=False,
    )
    dense, expert = (optimizer_ranks(layout, workload, is_expert=each) for each in (False, True))
    split = f"split over {dense} ranks (dp x cp)" + (f", of experts over {expert}" if trained[True] else "")
    how = split if workload.use_distributed_optimizer else "not split"
    yield MemoryLine(
        part="optimizer",
        what="Adam: fp32 weights and two moments" if workload.optimizer_state_bytes == 12 else "optimizer states",
        bytes=states,
        source=f"{workload.optimizer_state_bytes} B each, {how}",
        counted=False,
    )
    buffers = {id(buffer): buffer.untyped_storage().nbytes() for chunk in chunks for buffer in chunk.buffers()}
    yield MemoryLine(
        part="buffers", what="buffers of modules", bytes=sum(buffers.values()), source="their shapes", counted=True
    )


def state_bytes(parameter: torch.Tensor, workload: Workload) -> int:
    """Return the optimizer's bytes for each element of a parameter, which needs no copy in fp32."""
    return workload.optimizer_state_bytes - (0 if parameter.element_size() < FP32 else FP32)


def optimizer_ranks(layout: Layout, workload: Workload, *, is_expert: bool) -> int:
    """Return the number of ranks that share the optimizer states of a parameter."""
    if not workload.use_distributed_optimizer:
        return 1
    stage = layout.world // layout.pp
    return max(stage // (layout.ep * layout.expert_tp if is_expert else layout.tp), 1)


def _weights(chunks: Sequence[nn.Module], adapters: frozenset[str]) -> Iterator[MemoryLine]:
    sizes: Counter[tuple[bool, str]] = Counter()
    for name, parameter in _parameters(chunks):
        sizes[name in adapters, str(parameter.dtype).removeprefix("torch.")] += parameter.untyped_storage().nbytes()
    for (is_adapter, dtype), size in sorted(sizes.items()):
        yield MemoryLine(
            part="weights",
            what=f"{'adapters' if is_adapter else 'base'} in {dtype}",
            bytes=size,
            source="the parameters' shapes",
            counted=True,
        )


def _parameters(chunks: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield each parameter once, with its name in its chunk."""
    seen: set[int] = set()
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter


def _is_expert(name: str, parameter: nn.Parameter) -> bool:
    # megatron-core marks parameters that ranks of ep do not share. On meta nothing is marked yet,
    # where a class marks with the first values.
    return not getattr(parameter, "allreduce", True) or (".experts." in name and "shared_experts" not in name)
