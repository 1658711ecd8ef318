"""Small models, and calls that run one proof on one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.job.job import lora_fields
from clora_inspect.job.layout import Layout
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify.implementation.clora import Clora
from clora_inspect.verify.proof_table import proof_named
from clora_inspect.verify.ranks.engine import model_under_test, run_proof
from clora_inspect.verify.task import ProofTask, RankAnswer

if TYPE_CHECKING:
    from clora_inspect.verify.implementation.protocol import Implementation

SMALL = {
    "num_layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "kv_channels": 8,
    "vocab_size": 128,
    "max_sequence_length": 64,
    "params_dtype": "float32",
}
EXPERTS = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 32, "moe_aux_loss_coeff": 0.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("llama3-8b", SMALL),
    "short": ("llama3-8b", {**SMALL, "num_layers": 1}),
    "one group": ("llama3-8b", {**SMALL, "num_query_groups": 1}),
    "uneven": ("llama3-8b", {**SMALL, "num_layers": 3, "num_layers_in_first_pipeline_stage": 1}),
    "biased": ("qwen2.5-0.5b", SMALL),
    "experts": ("mixtral-8x7b", {**SMALL, **EXPERTS}),
    "no gate": ("nemotron-4-15b", SMALL),
    "hybrid": (
        "nemotron-h-8b",
        {
            **SMALL,
            "hybrid_override_pattern": "M*",
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "mamba_num_groups": 2,
            "mamba_state_dim": 8,
        },
    ),
    "output gate": ("llama3-8b", {**SMALL, "attention_output_gate": True}),
}


def task_of(model: str, layout: Layout | None = None, **lora: Any) -> ProofTask:
    """Return the task of one of `MODELS`, with these fields of LoRA."""
    name, fields = MODELS[model]
    return ProofTask(
        definition=load_definition(name).override(fields),
        layout=layout or Layout(),
        lora=lora_fields(CanonicalLoRA(**{"dim": 4, "alpha": 6, **lora})),
        layers=tuple(range(fields["num_layers"])),
    )


def proved(proof: str, task: ProofTask, implementation: Implementation | None = None) -> RankAnswer:
    """Run one proof on this rank, in the process groups that are in place."""
    return run_proof(proof_named(proof), model_under_test(task, implementation or Clora()))


def proved_broken(proof: str, what: bytes, mutation: str) -> bytes:
    """Run one proof on a broken surgery, for a rank in another process; JSON in and out."""
    from broken_surgeries import broken

    with broken(mutation) as implementation:
        return msgspec.json.encode(proved(proof, msgspec.json.decode(what, type=ProofTask), implementation))
