r"""A plain megatron-core loop, tensor parallel: surgery, the gate, data parallelism, steps.

clora-inspect plan examples/gate/tiny_gpt.py:model_provider --tp 2 \
        --target-modules linear_q,linear_v,linear_fc2 --dim 4 --alpha 8 -f json -o plan.json
clora-inspect gate plan.json -- \
        torchrun --standalone --nproc-per-node 2 examples/gate/plain_loop.py
"""

from __future__ import annotations

import torch
from tiny_gpt import LORA, job, model_provider, optimizer_of, train

from clora import CanonicalLoRA
from clora_inspect import gate


def main() -> None:
    """Train for two steps."""
    with job(tp=2):
        from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

        model = model_provider().to(torch.cuda.current_device())
        CanonicalLoRA(**LORA)(model)

        gate(model)

        wrapped = DistributedDataParallel(model.config, DistributedDataParallelConfig(), model)
        train([wrapped], optimizer_of([wrapped]))


if __name__ == "__main__":
    main()
