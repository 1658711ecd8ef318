r"""The style of Megatron-Bridge: a provider applies its pre-wrap hooks, and wraps the chunks then.

LoRA is one hook, and the gate is the next.

    clora-inspect plan examples/gate/tiny_gpt.py:model_provider --tp 2 \
        --target-modules linear_q,linear_v,linear_fc2 --dim 4 --alpha 8 -f json -o plan.json
    clora-inspect gate plan.json -- \
        torchrun --standalone --nproc-per-node 2 examples/gate/pre_wrap_hooks.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tiny_gpt import LORA, job, model_provider, optimizer_of, train

from clora import CanonicalLoRA
from clora_inspect import gate

if TYPE_CHECKING:
    from collections.abc import Callable

    Hook = Callable[[list[Any]], list[Any]]


def add_adapters(model: list[Any]) -> list[Any]:
    """Adapt the chunks, as Megatron-Bridge's hook for PEFT does."""
    return CanonicalLoRA(**LORA)(model)


def pass_the_gate(model: list[Any]) -> list[Any]:
    """End the run unless every rank holds what was accepted."""
    gate(model)
    return model


def provide_distributed_model(hooks: list[Hook]) -> list[Any]:
    """Build, apply the hooks, and wrap, in the order of Megatron-Bridge."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.transformer.module import Float16Module

    model = [model_provider().to(torch.cuda.current_device())]
    for hook in hooks:
        model = hook(model)
    config = DistributedDataParallelConfig(use_distributed_optimizer=True)
    wrapped = [Float16Module(chunk.config, chunk) for chunk in model]
    return [DistributedDataParallel(chunk.config, config, chunk) for chunk in wrapped]


def main() -> None:
    """Train for two steps."""
    with job(tp=2):
        model = provide_distributed_model([add_adapters, pass_the_gate])
        train(model, optimizer_of(model, distributed=True))


if __name__ == "__main__":
    main()
