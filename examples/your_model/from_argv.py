"""A trainer whose model is made from its command line.

    clora-inspect plan from_argv.py:tiny --pp 2

The command line is clora-inspect's, so `sys.argv` is empty when the function is called. It parses
the words of the training script instead, and lays the layout over them.
"""

from __future__ import annotations

import argparse

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig

TINY = "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --vocab-size 256 --bf16"


def trainer_arguments(words=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-layers", type=int, required=True)
    parser.add_argument("--hidden-size", type=int, required=True)
    parser.add_argument("--num-attention-heads", type=int, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tensor-model-parallel-size", type=int, default=1)
    parser.add_argument("--pipeline-model-parallel-size", type=int, default=1)
    parser.add_argument("--sequence-parallel", action="store_true")
    return parser.parse_args(words)


def model_provider(args, pre_process, post_process):
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    config = TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        num_attention_heads=args.num_attention_heads,
        add_bias_linear=False,
        bf16=args.bf16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        sequence_parallel=args.sequence_parallel,
    )
    return GPTModel(
        config,
        get_gpt_layer_with_transformer_engine_spec(),
        vocab_size=args.vocab_size,
        max_sequence_length=128,
        position_embedding_type="rope",
        pre_process=pre_process,
        post_process=post_process,
    )


def tiny(layout, pre_process, post_process):
    args = trainer_arguments(TINY.split())
    args.tensor_model_parallel_size = layout.tp
    args.pipeline_model_parallel_size = layout.pp
    args.sequence_parallel = layout.sequence_parallel
    return model_provider(args, pre_process, post_process)


if __name__ == "__main__":
    print(trainer_arguments())  # the training script begins here, with its own command line
