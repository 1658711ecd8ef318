"""The tasks by which each rank compares itself with the same model on one rank."""

from __future__ import annotations

from typing import Any

import tiny_models
import torch
import weight_slices
from torch import distributed

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

TOLERANCE = 2e-5
"""Allowed error, relative to the largest gradient of a parameter. Everything is float64 except
megatron-core's loss, which is float32.
"""


def whole(kind: str) -> dict[str, Any]:
    """Return weights, gradients and losses of a model on one rank."""
    with quiet():
        model = tiny_models.build(kind, Layout(), "cpu", dtype=torch.float64)
        loss = tiny_models.loss_of(model)
        loss.mean().backward()
    return {
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
        "grads": {name: p.grad for name, p in model.named_parameters()},
        "loss": loss.detach(),
    }


def compared(kind: str, axes: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """Return this rank's losses, its parameters with wrong gradients, and how many it compared."""
    layout = Layout(**axes)
    gated = kind != "dense-layernorm-bias"
    with quiet():
        model = tiny_models.build(kind, layout, "cpu", dtype=torch.float64)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(weight_slices.slice_of(one["weights"], name, p, gated=gated))
        loss = tiny_models.loss_of(model)
        loss.mean().backward()
    wrong, split = {}, 0
    for name, p in model.named_parameters():
        expected = weight_slices.slice_of(one["grads"], name, p, gated=gated)
        split += expected.numel() != one["grads"].get(name, expected).numel()
        error = (_reduced(name, p) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
        if not error < TOLERANCE:
            wrong[name] = float(error)
    return {"loss": loss.detach(), "wrong": wrong, "compared": len(list(model.parameters())), "split": split}


def _reduced(name: str, parameter: torch.Tensor) -> torch.Tensor:
    """Return the gradient as megatron-core's training loop reduces it: summed over parts of the
    sequence and averaged over data.
    """
    from megatron.core import parallel_state

    grad = parameter.grad
    assert grad is not None, name
    # The norms of query and key see only the heads of this rank.
    if getattr(parameter, "sequence_parallel", False) or "q_layernorm" in name or "k_layernorm" in name:
        distributed.all_reduce(grad, group=parallel_state.get_tensor_model_parallel_group())
    if weight_slices.is_expert(name):
        # An expert sees the tokens of every data-parallel rank that shares it.
        dp = parallel_state.get_data_parallel_world_size()
        grad = grad * (parallel_state.get_expert_data_parallel_world_size() / dp)
    return grad
