"""Prove: adapt a real megatron-core model on the CPU, and see that training starts from the base.

    pip install -c constraints.txt '.[hf]'    # the export writes safetensors
    python examples/prove.py

A tiny GPTModel of the Transformer Engine layer spec is built, adapted, trained for three steps,
merged, and its adapters are exported for Hugging Face PEFT. `clora-inspect verify JOB` proves the
same, and more, of a model of your own job's kinds of layers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import clora
from clora_inspect.job import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron

VOCABULARY, LENGTH = 96, 12


def tiny_model() -> torch.nn.Module:
    """Build two layers of a Llama, with grouped-query attention and a gated MLP, in fp32."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=2,
        hidden_size=64,
        ffn_hidden_size=128,
        num_attention_heads=4,
        num_query_groups=2,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    return GPTModel(
        config,
        get_gpt_layer_with_transformer_engine_spec(),
        vocab_size=VOCABULARY,
        max_sequence_length=LENGTH,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    )


def main() -> None:
    """Adapt, train, merge and export; print what each step shows."""
    with virtual_megatron("cpu"), virtual_cluster(Layout()):
        torch.manual_seed(0)
        with quiet():  # megatron-core warns of each library that a GPU job would have
            model = tiny_model()
        tokens = torch.randint(VOCABULARY, (2, LENGTH))
        positions = torch.arange(LENGTH).expand(2, LENGTH)

        def logits() -> torch.Tensor:
            return model(tokens, positions, None)

        def loss() -> torch.Tensor:
            return torch.nn.functional.cross_entropy(logits().flatten(0, 1), tokens.flatten())

        base, base_loss = logits(), loss()
        lora = clora.CanonicalLoRA(dim=8, alpha=16)
        print(lora.plan(model).trainable_params, "parameters will be trained")
        lora(model)
        print("B = 0 changes no bit:", torch.equal(logits(), base))

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        adapted = logits()
        print(f"loss {base_loss:.4f} -> {loss():.4f}")

        clora.merge_adapters(model)
        print(f"largest difference when merged: {(logits() - adapted).abs().max():.0e}")
        clora.unmerge_adapters(model)

        with tempfile.TemporaryDirectory() as folder:
            clora.export_hf(model, Path(folder) / "peft", {"model_type": "llama"})
            print("exported:", ", ".join(sorted(path.name for path in (Path(folder) / "peft").iterdir())))


if __name__ == "__main__":
    main()
