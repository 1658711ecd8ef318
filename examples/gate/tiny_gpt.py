"""The model and the job of the trainers beside this file, sized to run on CPUs."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.virtual import megatron_on

if TYPE_CHECKING:
    from collections.abc import Iterator

VOCABULARY, LENGTH, BATCH = 256, 16, 2
LORA: dict[str, Any] = {"target_modules": ["linear_q", "linear_v", "linear_fc2"], "dim": 4, "alpha": 8}


def model_provider(pre_process: bool = True, post_process: bool = True, vp_stage: int | None = None) -> Any:
    """Build the part of the model that one rank, or one of its virtual chunks, holds."""
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
    from megatron.core.transformer import TransformerConfig

    tp = parallel_state.get_tensor_model_parallel_world_size()
    config = TransformerConfig(
        num_layers=4,
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=128,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        normalization="RMSNorm",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bf16=True,
        params_dtype=torch.bfloat16,
        pipeline_dtype=torch.bfloat16,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
        virtual_pipeline_model_parallel_size=parallel_state.get_virtual_pipeline_model_parallel_world_size(),
        sequence_parallel=tp > 1,
    )
    return GPTModel(
        config,
        get_gpt_layer_with_transformer_engine_spec(),
        vocab_size=VOCABULARY,
        max_sequence_length=LENGTH,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
        pre_process=pre_process,
        post_process=post_process,
        vp_stage=vp_stage,
    )


@contextmanager
def job(*, tp: int = 1, pp: int = 1, vpp: int | None = None) -> Iterator[None]:
    """Be one rank of a job that a launcher has started: NCCL on GPUs, gloo on CPUs."""
    # megatron-core needs CUDA. On a machine without it, clora-inspect's stand-ins take its place.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with megatron_on(device):
        from megatron.core import parallel_state
        from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        parallel_state.initialize_model_parallel(tp, pp, vpp)
        model_parallel_cuda_manual_seed(1234)
        yield
        torch.distributed.destroy_process_group()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and positions of one micro-batch."""
    device = torch.cuda.current_device()
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH), device=device)
    return tokens, torch.arange(LENGTH, device=device).expand(BATCH, LENGTH).contiguous()


def optimizer_of(model: list[Any], *, distributed: bool = False) -> Any:
    """Return megatron-core's optimizer for the adapters of wrapped chunks."""
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    config = OptimizerConfig(optimizer="adam", lr=1e-3, bf16=True, use_distributed_optimizer=distributed)
    return get_megatron_optimizer(config, model, use_gloo_process_groups=False)


def train(model: list[Any], optimizer: Any, steps: int = 2) -> None:
    """Train as Megatron-LM does; the last rank prints what it did."""
    from megatron.core.distributed import finalize_model_grads
    from megatron.core.pipeline_parallel import get_forward_backward_func

    losses: list[float] = []

    def forward_step(_data: Any, chunk: Any) -> tuple[torch.Tensor, Any]:
        def loss_of(out: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
            losses.append(float(out.float().mean()))
            return out.float().mean(), {}

        tokens, positions = batch()
        return chunk(tokens, positions, None, labels=tokens), loss_of

    for _ in range(steps):
        for chunk in model:
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=[iter(()) for _ in model],
            model=model,
            num_microbatches=4,
            seq_length=LENGTH,
            micro_batch_size=BATCH,
            forward_only=False,
        )
        finalize_model_grads(model)
        optimizer.step()
    if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
        factors = [each for chunk in model for name, each in chunk.named_parameters() if "linear_out" in name]
        moved = sum(bool(factor.any()) for factor in factors)
        print(f"{len(losses)} micro-batches trained {moved} of {len(factors)} adapters of the last rank")
