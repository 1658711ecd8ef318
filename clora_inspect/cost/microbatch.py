"""Run one micro-batch of one rank through its real modules on the meta device, forward and
backward. Call it inside a virtual cluster.

Nothing is computed but shapes. What others count of the run (bytes that are kept, messages, FLOPs)
they count in context managers around it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.cost.known_values import give
from clora_inspect.cost.routing import even_routing
from clora_inspect.cost.settings import CostError, refused_setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from torch import nn


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The tokens of one micro-batch of one data-parallel rank."""

    seq_length: int
    """Tokens in a row, on all context-parallel ranks together."""
    rows: int = 1
    """Sequences in the micro-batch."""
    packed: int | None = None
    """Sequences of equal length in the only row; None if a row is one sequence."""
    imbalance: float = 1.0
    """Tokens of the fullest expert, as a multiple of the mean of all experts."""


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One chunk's forward, with what its backward needs."""

    batch: MicroBatch
    chunk: int
    """Number of the chunk on its rank."""
    states: torch.Tensor | None
    """Hidden states `[S, B, H]` that it got from the stage before, with S the rank's part of the
    sequence; None on the first stage. They require gradients, as in a run.
    """
    output: torch.Tensor
    """The loss `[B, S]` of each token on the last stage, else the hidden states that are handed
    on.
    """
    shape: torch.Size
    """The shape of the output, whose memory `hand_on` frees."""


def forward(
    chunk: nn.Module, batch: MicroBatch, *, number: int = 0, observers: Iterable[AbstractContextManager[Any]] = ()
) -> ForwardPass:
    """Run the forward of one chunk of the rank that is being played.

    Args:
        chunk: a chunk, on the meta device, in the state in which it is trained.
        batch: the micro-batch.
        number: the chunk's number on its rank.
        observers: entered before the forward in this order, and left after it.

    Raises:
        CostError: the model's config has a field that nobody here can count.
    """
    model: Any = _unwrapped(chunk)
    config = model.config
    if (reason := refused_setting(config)) is not None:
        raise CostError(f"The model's micro-batch cannot be counted: {reason}")
    tokens = torch.zeros(batch.rows, batch.seq_length // config.context_parallel_size, dtype=torch.long, device="meta")
    positions = torch.arange(tokens.shape[1], device="meta").expand(batch.rows, -1)
    chunk.train()
    call: Any = chunk
    with ExitStack() as stack:
        stack.enter_context(even_routing(batch.imbalance))
        for observer in observers:
            stack.enter_context(observer)
        states = None if model.pre_process else _states(config, tokens)
        if states is not None:
            # A list, as megatron-core's schedules pass it.
            model.set_input_tensor([states])
        labels = tokens if model.post_process or getattr(config, "mtp_num_layers", None) else None
        output = call(tokens, positions, None, labels=labels, **_packing(batch))
    return ForwardPass(batch, number, states, output, output.shape)


def _packing(batch: MicroBatch) -> dict[str, Any]:
    """Return the argument that tells megatron-core where the sequences of a packed row begin."""
    if batch.packed is None:
        return {}
    from megatron.core.packed_seq_params import PackedSeqParams

    length = batch.seq_length // batch.packed
    starts = torch.empty(batch.packed + 1, dtype=torch.int32, device="meta")
    # The rotary embedding cuts rows where its kernel is not fused.
    give(starts, torch.arange(batch.packed + 1, dtype=torch.int32, device="cpu") * length)
    ends = dict.fromkeys(("cu_seqlens_q", "cu_seqlens_kv", "cu_seqlens_q_padded", "cu_seqlens_kv_padded"), starts)
    return {"packed_seq_params": PackedSeqParams(qkv_format="thd", max_seqlen_q=length, max_seqlen_kv=length, **ends)}


def hand_on(chunk: nn.Module, passed: ForwardPass) -> None:
    """Free the output of a forward, if it is hidden states that are sent to the next stage and the
    config says so (`deallocate_output_tensor` in megatron-core's `schedules.py`).
    """
    model: Any = _unwrapped(chunk)
    if model.config.deallocate_pipeline_outputs and not model.post_process:
        passed.output.data = passed.output.new_empty(1)


def backward(passed: ForwardPass, *, observers: Iterable[AbstractContextManager[Any]] = ()) -> None:
    """Run the backward of one chunk's forward. A chunk in which nothing is trained has none.

    Args:
        passed: what `forward` has returned.
        observers: entered before the backward in this order, and left after it.
    """
    if not passed.output.requires_grad:
        return
    with ExitStack() as stack:
        # Layers that are recomputed route their tokens again, as they were routed in the forward.
        stack.enter_context(even_routing(passed.batch.imbalance))
        for observer in observers:
            stack.enter_context(observer)
        gradient = passed.output.new_empty(passed.shape)
        # torch's own function compares shapes, and the output may have been freed.
        torch.autograd.Variable._execution_engine.run_backward(  # noqa: SLF001 - as in megatron-core
            (passed.output,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
        )


def forward_all(
    chunks: Sequence[nn.Module], batch: MicroBatch, *, observers: Iterable[AbstractContextManager[Any]] = ()
) -> list[ForwardPass]:
    """Run the forward of all chunks of a rank under the same observers, each entered once."""
    with ExitStack() as stack:
        for observer in observers:
            stack.enter_context(observer)
        return [forward(chunk, batch, number=number) for number, chunk in enumerate(chunks)]


def _states(config: Any, tokens: torch.Tensor) -> torch.Tensor:
    rows, length = tokens.shape
    if config.sequence_parallel:
        length //= config.tensor_model_parallel_size
    return torch.empty(
        length, rows, config.hidden_size, dtype=config.pipeline_dtype or config.params_dtype, device="meta"
    ).requires_grad_()


def _unwrapped(chunk: nn.Module) -> nn.Module:
    """Return the model inside megatron-core's wrappers, which all call it `module`."""
    model = chunk
    while (inner := dict(model.named_children()).get("module")) is not None:
        model = inner
    return model
