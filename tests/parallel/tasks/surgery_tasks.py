"""The tasks that the tests of parallel surgery run on each rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lora_models
import torch

from clora import CanonicalLoRA
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

Shard = tuple[str, tuple[int, ...], torch.Tensor, torch.Tensor]
"""Name and shape of the full tensor, flat positions of this rank's entries, and their values."""


def step(
    kind: str, axes: dict[str, Any], length: int, lora_fields: dict[str, Any], model_fields: dict[str, Any]
) -> dict[str, Any]:
    """Run one forward and backward through megatron-core's DDP.

    Return the losses of this rank's tokens and the reduced gradients of its shards.
    """
    from megatron.core import parallel_state as mpu

    layout = Layout(**axes)
    chunks = _adapted(kind, layout, lora_fields, model_fields)
    ddp = _data_parallel(chunks)
    data = lora_models.batch(length, mpu.get_data_parallel_rank(), mpu.get_data_parallel_world_size())
    losses = _forward_backward(ddp, data, layout, by_labels="mtp" in kind)
    if losses is not None and "mtp" not in kind:  # Each rank summed over its part of the vocabulary.
        torch.distributed.all_reduce(losses, group=mpu.get_tensor_model_parallel_group())
    _finalize(ddp)
    gradients = [shard for chunk in chunks for shard in _shards(chunk, lambda parameter: parameter.main_grad)]
    frozen = [
        name
        for chunk in chunks
        for name, parameter in chunk.named_parameters()
        if not parameter.requires_grad and parameter.grad is not None
    ]
    _release(ddp)
    return {
        "losses": losses,
        "dp_rank": mpu.get_data_parallel_rank(),
        "gradients": gradients,
        "frozen_with_gradient": frozen,
    }


def train(kind: str, axes: dict[str, Any], distributed_optimizer: bool, overlap: bool = False) -> dict[str, Any]:
    """Run five AdamW steps from B = 0 through megatron-core's DDP and optimizer, with gradient
    clipping.
    """
    from megatron.core import parallel_state as mpu
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    chunks = _adapted(kind, Layout(**axes), {}, {"dtype": torch.float32})
    for chunk in chunks:
        lora_models.fill(chunk, only="linear_out.weight", std=0.0)
    with quiet():
        overlaps = {"overlap_grad_reduce": True, "overlap_param_gather": True} if overlap else {}
        ddp = _data_parallel(chunks, use_distributed_optimizer=distributed_optimizer, **overlaps)
        config = OptimizerConfig(
            optimizer="adam",
            lr=1e-2,
            weight_decay=0.01,
            clip_grad=0.05,
            overlap_param_gather=overlap,
            use_distributed_optimizer=distributed_optimizer,
        )
        optimizer = get_megatron_optimizer(config, ddp, use_gloo_process_groups=False)
    data = lora_models.batch(8, mpu.get_data_parallel_rank(), mpu.get_data_parallel_world_size())
    losses, norms = [], []
    for _ in range(5):
        optimizer.zero_grad()
        for chunk in ddp:
            chunk.zero_grad_buffer()
        loss = ddp[0](data[0], data[1], None, labels=data[2]).mean()
        loss.backward()
        _finalize(ddp)
        _, norm, _ = optimizer.step()
        total = loss.detach().clone()
        torch.distributed.all_reduce(total, group=mpu.get_data_parallel_group())
        losses.append(float(total) / mpu.get_data_parallel_world_size())
        norms.append(float(norm))
    # With overlap, parameters are gathered by the next forward, and there is none.
    if overlap:
        for chunk in ddp:
            chunk.start_param_sync(force_sync=True)
    adapters = [shard for chunk in chunks for shard in _shards(chunk, lambda parameter: parameter)]
    _release(ddp)
    return {"losses": losses, "norms": norms, "adapters": adapters}


def later_token_moves_earlier(kind: str, axes: dict[str, Any], length: int) -> float:
    """Return how much the losses of earlier tokens change when only the last token changes."""
    (model,) = _adapted(kind, Layout(**axes), {}, {})
    model.eval()
    tokens, positions, labels = lora_models.batch(length)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % lora_models.VOCABULARY
    with torch.no_grad():
        first, second = (model(t, positions, None, labels=labels) for t in (tokens, changed))
    assert (first[:, -1] - second[:, -1]).abs().max() > 1e-6
    return float((first - second)[:, :-1].abs().max())


def all_logits(axes: dict[str, Any]) -> torch.Tensor:
    """Return the logits over the whole vocabulary, which the output layer gathers."""
    (model,) = _adapted("gqa", Layout(**axes), {}, {})
    tokens, positions, _ = lora_models.batch(8)
    with torch.no_grad():
        logits: torch.Tensor = model(tokens, positions, None, runtime_gather_output=True)
    return logits.contiguous()


def hidden_states_with_dropout(axes: dict[str, Any], position: str) -> torch.Tensor:
    """Return the decoder's output, which is whole on every rank without sequence parallelism."""
    (model,) = _adapted("gqa", Layout(**axes), {"dropout": 0.5, "dropout_position": position}, {})
    seen: list[torch.Tensor] = []
    model.decoder.register_forward_hook(lambda _module, _args, out: seen.append(out.detach().clone()))
    tokens, positions, _ = lora_models.batch(7)
    with quiet():
        model(tokens, positions, None)
    return seen[0]


def _adapted(kind: str, layout: Layout, lora_fields: dict[str, Any], model_fields: dict[str, Any]) -> list[Any]:
    chunks = lora_models.build(kind, layout, **model_fields)
    with quiet():
        CanonicalLoRA(**{"target_modules": lora_models.TARGETS, "dim": 4, "alpha": 6, **lora_fields})(chunks)
    for chunk in chunks:
        lora_models.fill(chunk, only=".adapter.", std=0.2)
    return chunks


def _data_parallel(chunks: list[Any], **fields: Any) -> list[Any]:
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    config = DistributedDataParallelConfig(grad_reduce_in_fp32=False, **fields)
    ddp = [DistributedDataParallel(chunk.config, config, chunk) for chunk in chunks]
    for chunk in ddp:
        chunk.zero_grad_buffer()
    return ddp


def _release(ddp: list[Any]) -> None:
    """Let the collector free the models, and with them their gloo groups and their threads.

    DDP keeps the parameters' gradient accumulators, whose hooks keep DDP: a circle through C++ that
    Python's collector does not see.
    """
    for chunk in ddp:
        chunk.grad_accs.clear()


def _forward_backward(
    ddp: list[Any], data: tuple[torch.Tensor, ...], layout: Layout, *, by_labels: bool
) -> torch.Tensor | None:
    """Run forward and backward on this rank's rows, and return one value per token on the last
    stage.

    megatron-core computes the cross-entropy in fp32. So, unless only labels make a part of the
    model run, the loss is another function of the logits, in their own precision.
    """

    def tokenwise(tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, model: Any) -> torch.Tensor:
        out: torch.Tensor = model(tokens, positions, None, labels=labels if by_labels else None)
        return out

    def per_token(out: torch.Tensor) -> torch.Tensor:
        return out if by_labels or out.dim() < 3 else out.sin().sum(-1).contiguous()

    if layout.pp == 1:
        losses = per_token(tokenwise(*data, ddp[0]))
        losses.mean().backward()
        return losses.detach()
    from megatron.core.pipeline_parallel import get_forward_backward_func

    seen: list[torch.Tensor] = []

    def forward_step(iterator: Iterator[tuple[torch.Tensor, ...]], model: Any) -> tuple[torch.Tensor, Any]:
        def loss_of(out: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
            losses = per_token(out)
            seen.append(losses.detach())
            return losses.mean(), {}

        return tokenwise(*next(iterator), model), loss_of

    microbatches = [tuple(tensor.chunk(2)[i] for tensor in data) for i in range(2)]
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(microbatches) for _ in ddp],
        model=ddp,
        num_microbatches=2,
        seq_length=data[0].shape[1],
        micro_batch_size=len(data[0]) // 2,
        forward_only=False,
    )
    return torch.cat(seen) if seen else None


def _finalize(ddp: list[Any]) -> None:
    from megatron.core.distributed import finalize_model_grads

    finalize_model_grads(ddp)


def _shards(model: Any, value: Any) -> Iterator[Shard]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            place = lora_models.Place(model, name, parameter)
            tensor = value(parameter).detach().clone()
            assert torch.isfinite(tensor).all(), name
            yield place.name, place.shape, place.positions, tensor
