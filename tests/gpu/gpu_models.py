"""Build small adapted models whose sizes fp8 kernels take: all are multiples of 16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lora_models
import tiny_models
import torch

from clora import CanonicalLoRA
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

HIDDEN = 128
ROWS = 2
LENGTH = 64
VOCABULARY = 256
MOE = {
    "num_moe_experts": 4,
    "moe_grouped_gemm": True,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 128,
    "moe_token_dispatcher_type": "alltoall",
    "moe_router_load_balancing_type": "none",
}
MLA = {
    "multi_latent_attention": True,
    "num_query_groups": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_head_dim": 32,
    "qk_pos_emb_head_dim": 32,
    "v_head_dim": 32,
    "qk_layernorm": True,
}
KINDS: dict[str, dict[str, Any]] = {"dense": {}, "moe": MOE, "mla": MLA}

BF16: dict[str, Any] = {}
PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16": BF16,
    "fp8-delayed": {"fp8": "hybrid", "fp8_recipe": "delayed"},
    "fp8-current": {"fp8": "hybrid", "fp8_recipe": "tensorwise"},
    "fp8-blockwise": {"fp8": "e4m3", "fp8_recipe": "blockwise"},
}
"""Name -> fields of the config, for what Transformer Engine has on Hopper."""

LORA = CanonicalLoRA(
    target_modules=[name for name in lora_models.TARGETS if name not in ("router", "output_layer")], dim=16, alpha=32
)


def build(kind: str = "dense", *, device: str = "cuda", dtype: torch.dtype = torch.bfloat16, **fields: Any) -> Any:
    """Return a GPTModel of two layers in training mode. Equal arguments give equal values on every
    device: they are drawn on the CPU, from the names of the parameters.
    """
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

    sizes = {"hidden_size": HIDDEN, "ffn_hidden_size": 256, "num_layers": 2}
    if kind == "moe" and "fp8" in fields:
        # Kernels of fp8 take a number of rows per expert that is a multiple of 16.
        fields["moe_router_padding_for_quantization"] = True
    config = tiny_models.config(Layout(), device, dtype=dtype, **{**sizes, **KINDS[kind], **fields})
    with quiet(), torch.device(device):
        model = GPTModel(
            config,
            get_gpt_decoder_block_spec(config, use_transformer_engine=True),
            VOCABULARY,
            LENGTH,
            position_embedding_type="rope",
            share_embeddings_and_output_weights=False,
        )
    lora_models.fill(model)
    return model.train()


def adapt(model: Any, *, fill: bool = True) -> Any:
    """Adapt every linear of a model in place. `fill` gives B values, without which it is zero."""
    LORA(model)
    if fill:
        lora_models.fill(model, only=".adapter", std=0.05)
    return model


def logits(model: Any) -> torch.Tensor:
    """Return the logits `[ROWS, LENGTH, VOCABULARY]` of the batch, in the model's dtype."""
    tokens, positions, _ = batch()
    found: torch.Tensor = model(tokens, positions, None)
    return found


def loss(model: Any) -> torch.Tensor:
    """Return the mean loss of the batch."""
    tokens, positions, labels = batch()
    found: torch.Tensor = model(tokens, positions, None, labels=labels).mean()
    return found


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens, positions and labels `[ROWS, LENGTH]` on the current device."""
    device = torch.cuda.current_device()
    drawn = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(7)).to(device)
    positions = torch.arange(LENGTH).expand(ROWS, -1).to(device)
    return drawn[:, :-1].contiguous(), positions, drawn[:, 1:].contiguous()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())


@dataclass(frozen=True)
class Gradients:
    """Gradients by the name of their parameter."""

    adapters: dict[str, torch.Tensor]
    base: list[str]
    """Names of parameters of the base that have one."""


def gradients(model: Any) -> Gradients:
    """Return the gradients that a backward has left."""
    found = {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
    return Gradients(
        {name: gradient for name, gradient in found.items() if ".adapter" in name},
        [name for name in found if ".adapter" not in name],
    )


def forget_fp8() -> None:
    """Forget Transformer Engine's fp8 state of models that were built before."""
    from transformer_engine.pytorch.fp8 import FP8GlobalStateManager

    FP8GlobalStateManager.reset()
