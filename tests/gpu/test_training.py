"""A training loop as a trainer has it, on one GPU: megatron-core's data parallelism with NCCL, its
distributed optimizer with Transformer Engine's fused Adam, and the gate before the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gpu_models
import pytest
import torch

from clora_inspect import gate
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.ranks.worlds import one_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.gpu

STEPS = 8


@pytest.fixture(autouse=True)
def _one_process_group(_needs_a_gpu: None) -> Iterator[None]:
    with quiet(), one_rank(Layout(), "cuda"):
        yield


@pytest.mark.parametrize("precision", ["bf16", "fp8-delayed"])
def test_adapters_train_behind_the_gate(precision: str, tmp_path: Path, proved: Callable[[str], None]) -> None:
    gpu_models.forget_fp8()
    model = gpu_models.adapt(gpu_models.build(**gpu_models.PRECISIONS[precision]), fill=False)
    trained, optimizer = _trainer(model)
    gate(trained, record=tmp_path)
    base = {name: p.detach().clone() for name, p in model.named_parameters() if ".adapter" not in name}
    losses = [_step(trained, optimizer) for _ in range(STEPS)]
    assert losses[-1] < 0.95 * losses[0]
    after = dict(model.named_parameters())
    assert [name for name, values in base.items() if not torch.equal(after[name], values)] == []
    gate(trained, str(tmp_path / "clora-run.json"))
    proved(
        f"dense, {precision}: behind the gate, {STEPS} steps of the distributed optimizer bring the loss from "
        f"{losses[0]:.3f} to {losses[-1]:.3f} and change no bit of the base"
    )


def _trainer(model: Any) -> tuple[Any, Any]:
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    data_parallel = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    trained = DistributedDataParallel(model.config, data_parallel, model)
    settings = OptimizerConfig(optimizer="adam", lr=0.01, bf16=True, use_distributed_optimizer=True)
    return trained, get_megatron_optimizer(settings, [trained], use_gloo_process_groups=False)


def _step(model: Any, optimizer: Any) -> float:
    model.zero_grad_buffer()
    optimizer.zero_grad()
    loss = gpu_models.loss(model)
    loss.backward()
    model.finish_grad_sync()
    optimizer.step()
    return loss.item()
