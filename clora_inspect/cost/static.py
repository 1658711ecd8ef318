"""Count what one rank holds all the time: weights, gradients, optimizer states, buffers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.job.rank_memory import MemoryLine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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

WORKSPACE = 32 << 20
"""Bytes of Transformer Engine's workspace for matrix products from Hopper on
(`get_cublas_workspace_size_bytes` in its `module/base.py`).
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
    trained = [trained_of(name, parameter) for name, parameter in _parameters(chunks) if parameter.requires_grad]
    kept = f"{FP32} B each: fp32" if workload.grad_reduce_in_fp32 else "in the dtype of their weights"
    yield MemoryLine(
        part="gradients",
        what=f"gradients of {sum(each.elements for each in trained):,} trained parameters",
        bytes=sum(gradient_bytes(each, workload) for each in trained),
        source=f"{kept}, as DistributedDataParallel accumulates them; with its padding",
        counted=False,
    )
    dense, expert = (optimizer_ranks(layout, workload, is_expert=each) for each in (False, True))
    has_experts = any(each.is_expert for each in trained)
    split = f"split over {dense} ranks (dp x cp)" + (f", of experts over {expert}" if has_experts else "")
    how = split if workload.use_distributed_optimizer else "not split"
    yield MemoryLine(
        part="optimizer",
        what="Adam: fp32 weights and two moments" if workload.optimizer_state_bytes == 12 else "optimizer states",
        bytes=sum(optimizer_bytes(each, layout, workload) for each in trained),
        source=f"{workload.optimizer_state_bytes} B each, {how}",
        counted=False,
    )
    buffers = {id(buffer): buffer.untyped_storage().nbytes() for chunk in chunks for buffer in chunk.buffers()}
    yield MemoryLine(
        part="buffers", what="buffers of modules", bytes=sum(buffers.values()), source="their shapes", counted=True
    )


@dataclass(frozen=True, slots=True)
class Trained:
    """The facts of a trained parameter that decide on its gradient and its optimizer states."""

    elements: int
    element_size: int
    """Bytes of an element."""
    is_expert: bool
    is_marked: bool = False
    """Whether ranks of tp sum its gradients, because each has seen its part of the tokens."""


def trained_of(name: str, parameter: nn.Parameter) -> Trained:
    """Return what the trained parameter called `name` says."""
    marked = bool(vars(parameter).get("sequence_parallel"))
    return Trained(parameter.numel(), parameter.element_size(), is_expert(name, parameter), marked)


def gradient_size(trained: Trained, workload: Workload) -> int:
    """Return the bytes of each element of a parameter's gradient."""
    return FP32 if workload.grad_reduce_in_fp32 else trained.element_size


def gradient_bytes(trained: Trained, workload: Workload) -> int:
    """Return the bytes of a parameter's gradient in its buffer."""
    return buffer_part(trained, workload) * gradient_size(trained, workload)


def buffer_part(trained: Trained, workload: Workload) -> int:
    """Return the elements of the gradients' buffer that a parameter takes."""
    if workload.use_distributed_optimizer:
        return -(-trained.elements // ALIGNMENT) * ALIGNMENT
    return trained.elements


def optimizer_bytes(trained: Trained, layout: Layout, workload: Workload) -> int:
    """Return the bytes of a parameter's optimizer states on one rank. A parameter in fp32 needs no
    copy.
    """
    each = workload.optimizer_state_bytes - (0 if trained.element_size < FP32 else FP32)
    return trained.elements * each // optimizer_ranks(layout, workload, is_expert=trained.is_expert)


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


def is_expert(name: str, parameter: nn.Parameter) -> bool:
    """Return whether only the ranks that hold the same experts hold a parameter."""
    # megatron-core marks those parameters; on meta nothing is marked yet, where a class marks with
    # its first values. Adapters are marked as well: those that experts share are not of an expert.
    marked: bool | None = vars(parameter).get("allreduce")
    if marked is not None:
        return not marked
    return ".experts." in name and "shared_experts" not in name
