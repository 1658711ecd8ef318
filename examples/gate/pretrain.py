r"""The style of Megatron-LM's `pretrain`: `get_model` makes the virtual chunks and wraps them.

Between the two stands surgery. The optimizer is a distributed one.

    clora-inspect plan examples/gate/tiny_gpt.py:model_provider --pp 2 --vpp 2 \
        --target-modules linear_q,linear_v,linear_fc2 --dim 4 --alpha 8 -f json -o plan.json
    clora-inspect gate plan.json -- \
        torchrun --standalone --nproc-per-node 4 examples/gate/pretrain.py
"""

from __future__ import annotations

from typing import Any

import torch
from tiny_gpt import LORA, job, model_provider, optimizer_of, train

from clora import CanonicalLoRA
from clora_inspect import gate

CHUNKS = 2


def get_model() -> list[Any]:
    """Return this rank's chunks, adapted and wrapped."""
    from megatron.core import parallel_state
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.transformer.module import Float16Module

    chunks: list[Any] = []
    for number in range(CHUNKS):
        parallel_state.set_virtual_pipeline_model_parallel_rank(number)
        where = {"ignore_virtual": False, "vp_stage": number}
        chunk = model_provider(
            pre_process=parallel_state.is_pipeline_first_stage(**where),
            post_process=parallel_state.is_pipeline_last_stage(**where),
            vp_stage=number,
        )
        chunk.model_type = "encoder_or_decoder"
        chunks.append(chunk.to(torch.cuda.current_device()))
    # Before the wrappers: data parallelism reduces what is trainable when it is made.
    CanonicalLoRA(**LORA)(chunks)
    config = DistributedDataParallelConfig(use_distributed_optimizer=True)
    wrapped = [Float16Module(chunk.config, chunk) for chunk in chunks]
    return [DistributedDataParallel(chunk.config, config, chunk) for chunk in wrapped]


def main() -> None:
    """Train for two steps."""
    with job(pp=2, vpp=CHUNKS):
        model = get_model()

        gate(model)

        train(model, optimizer_of(model, distributed=True))


if __name__ == "__main__":
    main()
