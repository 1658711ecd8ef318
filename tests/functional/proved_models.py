"""A module of a user: a model that passes every proof, and one that is different each time."""

MODELS = '''\
import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig


def steady(layout, pre_process, post_process):
    """With megatron-core's own defaults: a tenth of everything is dropped in training."""
    config = TransformerConfig(
        num_layers=2, hidden_size=64, num_attention_heads=4, num_query_groups=2, ffn_hidden_size=96,
        gated_linear_unit=True, add_bias_linear=False, normalization="RMSNorm",
        tensor_model_parallel_size=layout.tp, sequence_parallel=layout.sequence_parallel,
    )
    return GPTModel(
        config, get_gpt_layer_with_transformer_engine_spec(), vocab_size=128, max_sequence_length=64,
        position_embedding_type="rope", pre_process=pre_process, post_process=post_process,
    )


def noisy(layout, pre_process, post_process):
    model = steady(layout, pre_process, post_process)
    model.decoder.register_forward_hook(lambda _module, _input, output: output + 1e-3 * torch.randn_like(output))
    return model
'''
