"""Look at what the stages of a user's model hand on, before a pipeline schedule exchanges it.

The schedule receives states of a shape that it knows beforehand. A stage that hands on others does
not end in an exception: the library of the exchange ends the process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.verify.model.running import ForwardFailed, forward_of, outputs_of
from clora_inspect.verify.model.single_rank import single_rank
from clora_inspect.verify.outcome import NotRun, Refuted

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.batch import Batch
    from clora_inspect.verify.model.model_under_test import ModelUnderTest


@dataclass(frozen=True, slots=True)
class RowLengths:
    """Two lengths of a row that agree in a pipeline and on one rank."""

    tokens: int
    """Tokens that the model is called with."""
    states: int
    """Tokens in the states between stages: pictures add some, and LLaVAModel fills rows up."""


def row_lengths(model: ModelUnderTest, tokens: int) -> RowLengths:
    """Return the lengths with which the model can be proved in a pipeline. Called on all ranks
    together.

    Args:
        model: a user's model on several stages.
        tokens: the length to begin with.

    Raises:
        Refuted: the states have no shape or dtype that megatron-core's schedules can exchange.
        NotRun: a pipeline and one rank have no length in common.
        ForwardFailed: the forward of a stage raised.
    """
    chunks = model.base()
    states = _handed_on(model, chunks, model.batch(tokens))
    if states == tokens:
        return RowLengths(tokens, states)
    # One rank is what the layout is compared with, so both have to see rows of one length.
    alone = _length_on_one_rank(model, tokens)
    longer = tokens + states - alone
    if longer < 1 or (again := _handed_on(model, chunks, model.batch(longer))) != states:
        raise NotRun(
            f"a pipeline hands on states of {states} tokens for rows of {tokens}, and one rank computes {alone}: "
            f"there is no number of tokens for which both are the same"
            + ("" if longer < 1 else f" ({longer} tokens give {again})")
        )
    return RowLengths(longer, states)


def _length_on_one_rank(model: ModelUnderTest, tokens: int) -> int:
    with single_rank():
        alone = replace(model.on_single_rank(), length=tokens)
        batch = alone.batch()
        outputs = model.together(lambda: outputs_of(alone.base(), batch))
    rows = 0 if batch.tokens is None else len(batch.tokens)
    return next((size for size in outputs[-1].shape[:2] if size != rows), tokens)


def _handed_on(model: ModelUnderTest, chunks: list[nn.Module], batch: Batch) -> int:
    """Run one stage after the other, and return the tokens in the states between them."""
    from megatron.core import parallel_state as mpu
    from torch import distributed

    stage, stages = mpu.get_pipeline_model_parallel_rank(), mpu.get_pipeline_model_parallel_world_size()
    group = mpu.get_pipeline_model_parallel_group()
    failed: ForwardFailed | Refuted | None = None
    received: Any = None
    length = 0
    for number in range(len(chunks) * stages):
        handed: list[Any] = [None] * stages
        if number % stages == stage:
            try:
                output = forward_of(chunks[number // stages], batch, received)
                if number < len(chunks) * stages - 1:
                    length = _checked(output, chunks[0], batch, stage)
                    handed[stage] = output
            except (ForwardFailed, Refuted) as error:
                failed = error
        distributed.all_gather_object(handed, handed[stage], group=group)
        received = handed[number % stages]
        if received is None:
            # It failed there, or it was the last one.
            break
    lengths = model.together(lambda: _or_raise(failed, length))
    return max(model.everywhere(lengths))


def _or_raise(failed: Exception | None, length: int) -> int:
    if failed is not None:
        raise failed
    return length


def _checked(output: Any, chunk: Any, batch: Batch, stage: int) -> int:
    """Return the tokens in the states that a stage hands on.

    Raises:
        Refuted: megatron-core's schedules cannot exchange them.
    """
    from megatron.core import parallel_state as mpu

    config = chunk.config
    rows = 0 if batch.tokens is None else len(batch.tokens)
    ranks = mpu.get_tensor_model_parallel_world_size() if config.sequence_parallel else 1
    wanted = f"[tokens, {rows} rows, {config.hidden_size}] in {str(config.pipeline_dtype).removeprefix('torch.')}"
    if not isinstance(output, torch.Tensor):
        found = f"a {type(output).__name__}"
    elif output.dim() != 3 or list(output.shape[1:]) != [rows, config.hidden_size]:
        found = str(list(output.shape))
    elif output.dtype is not config.pipeline_dtype:
        found = f"states in {str(output.dtype).removeprefix('torch.')}"
    else:
        return int(output.shape[0]) * ranks
    raise Refuted(
        f"Stage {stage} hands on {found}, and megatron-core's pipeline schedule takes one tensor {wanted}, of the "
        "config's hidden_size and pipeline_dtype: the next stage would read something else, or the exchange would end "
        "the process."
    )
