"""A verdict for each `raise` and `assert` of megatron-core's training step: the rule that has it,
or why it needs none.

Where the statements of one function differ, each verdict names words of its condition or message.
`docs/forward-time-errors.md` is written from this table and from megatron-core's source.
"""

from __future__ import annotations

INFERENCE = "Only with an inference context: a training step has none."
BATCH = "Depends on the batch (its shape, packing or mask), which no job describes."
CALLER = "Depends on the arguments of the training loop, which no job describes."
HOLDS = "Holds by construction: no setting of a job breaks it."
BUILD = "The build, or the check of the config, refuses the setting first, so that plan and check report it."
INSTALLED = "Depends on the installed Transformer Engine, torch or kernels and not on the job."
ABSTRACT = "In a base class: every class that is built overrides it."
GRAPHS = "CUDA graphs only: their scopes are checked when the config is made."
OPTIMIZER = "Depends on the optimizer, which no job describes."
QUANTISED = "Depends on the recipe file of quantised training, which no job describes."
CROSS = "Cross attention only: no decoder of a job has it."
MICROBATCHES = "Depends on the number of micro-batches of a step, which only `plan --memory` knows: it refuses them."
DTYPE = "The dtype of the job decides it; a proof runs the forward and names it."
OVERLAP = "In the schedule of overlap_moe_expert_parallel_comm, whose needs the config checks when it is made."
NO_QK_CLIP = "Only called by the training loop with qk_clip, for which CL417 is."

Verdict = str | dict[str, str]
"""One verdict for the whole function, or words of a condition or message -> verdict; `""` is for
the rest.
"""

VERDICTS: dict[str, Verdict] = {
    "transformer/attention.py:Attention.flash_decode": INFERENCE,
    "transformer/attention.py:Attention._flash_attention_3_forward_wrapper": INFERENCE,
    "transformer/attention.py:Attention.flash_decode_and_prefill": INFERENCE,
    "transformer/attention.py:Attention.forward": {
        "self.config.fused_single_qkv_rope and split_qkv": "CL329",
        "not self.config.attention_output_gate": BUILD,
        "": INFERENCE,
    },
    "transformer/attention.py:Attention.set_for_recompute_input_layernorm": ABSTRACT,
    "transformer/attention.py:Attention.clip_qk": ABSTRACT,
    "transformer/attention.py:SelfAttention.get_query_key_value_tensors": {"split_qkv": BUILD, "": HOLDS},
    "transformer/attention.py:SelfAttention.clip_qk": NO_QK_CLIP,
    "transformer/attention.py:CrossAttention.get_query_key_value_tensors": CROSS,
    "transformer/multi_latent_attention.py:MultiLatentAttention.forward": {
        "self.training and self.cache_mla_latents": "CL326",
        "rotary_pos_emb is None": "CL334",
        "attention_bias": CALLER,
        "qkv_up_checkpoint": HOLDS,
        "": INFERENCE,
    },
    "transformer/multi_latent_attention.py:MLASelfAttention.get_query_key_value_tensors": {
        "local_cp_size": BATCH,
        "ndim": HOLDS,
        "fused_apply_mla_rope_for_q is not None": INSTALLED,
        "": INFERENCE,
    },
    "transformer/multi_latent_attention.py:MLASelfAttention.get_query_key_value_tensors.qkv_up_proj_and_rope_apply": HOLDS,
    "transformer/multi_latent_attention.py:MLASelfAttention.clip_qk": NO_QK_CLIP,
    "transformer/dot_product_attention.py:DotProductAttention.forward": BATCH,
    "transformer/experimental_attention_variant/dsa.py:rotate_activation": {"bfloat16": DTYPE, "": INSTALLED},
    "transformer/experimental_attention_variant/dsa.py:DSAIndexer.forward_with_scores": BATCH,
    "transformer/experimental_attention_variant/dsa.py:DSAttention.forward": BATCH,
    "transformer/mlp.py:MLP.forward": {"add_bias_linear is True": BUILD, "": "CL321"},
    "transformer/moe/moe_layer.py:MoELayer.preprocess": "CL325",
    "transformer/moe/moe_layer.py:MoELayer.routed_experts_compute": HOLDS,
    "transformer/moe/moe_layer.py:MoELayer.forward": "CL315",
    "transformer/moe/moe_layer.py:MoELayer.forward.custom_forward": HOLDS,
    "transformer/moe/router.py:Router.routing": ABSTRACT,
    "transformer/moe/router.py:Router.forward": ABSTRACT,
    "transformer/moe/router.py:TopKRouter.sinkhorn_load_balancing": "CL322",
    "transformer/moe/token_dispatcher.py:MoETokenDispatcher.dispatch_preprocess": ABSTRACT,
    "transformer/moe/token_dispatcher.py:MoETokenDispatcher.token_dispatch": ABSTRACT,
    "transformer/moe/token_dispatcher.py:MoETokenDispatcher.dispatch_postprocess": ABSTRACT,
    "transformer/moe/token_dispatcher.py:MoETokenDispatcher.combine_preprocess": ABSTRACT,
    "transformer/moe/token_dispatcher.py:MoETokenDispatcher.token_combine": ABSTRACT,
    "transformer/moe/token_dispatcher.py:MoETokenDispatcher.combine_postprocess": ABSTRACT,
    "transformer/moe/token_dispatcher.py:MoETokenDispatcher.set_shared_experts": BUILD,
    "transformer/moe/token_dispatcher.py:MoEAlltoAllTokenDispatcher.preprocess": HOLDS,
    "transformer/moe/token_dispatcher.py:MoEAlltoAllTokenDispatcher.dispatch_preprocess": HOLDS,
    "transformer/moe/token_dispatcher.py:_DeepepManager.get_permuted_hidden_states_by_experts": HOLDS,
    "transformer/moe/token_dispatcher.py:MoEFlexTokenDispatcher.set_shared_experts": BUILD,
    "transformer/moe/experts.py:GroupedMLP.forward": {
        "moe_router_topk == 1": "CL323",
        "self.config.bf16": "Legacy grouped GEMM, whose package the build asks for; its experts are not adapted.",
        "": BATCH,
    },
    "transformer/moe/experts.py:TEGroupedMLP.forward": "CL323",
    "transformer/moe/experts.py:TEGroupedMLP.forward.bias_act_func": {"bias_parallel is None": BUILD, "": "CL321"},
    "transformer/moe/experts.py:SequentialMLP.forward": "CL323",
    "transformer/moe/shared_experts.py:SharedExpertMLP.pre_forward_comm": HOLDS,
    "transformer/moe/shared_experts.py:SharedExpertMLP.linear_fc1_forward_and_act": {
        "Only support fusion": "CL321",
        "add_bias_linear is True": BUILD,
        "": HOLDS,
    },
    "transformer/moe/shared_experts.py:SharedExpertMLP.linear_fc2_forward": HOLDS,
    "transformer/moe/shared_experts.py:SharedExpertMLP.post_forward_comm": HOLDS,
    "transformer/moe/shared_experts.py:SharedExpertMLP.get_output": HOLDS,
    "transformer/moe/moe_utils.py:switch_load_balancing_loss_func": INSTALLED,
    "transformer/moe/moe_utils.py:permute": {"requires_grad": HOLDS, "": INSTALLED},
    "transformer/moe/moe_utils.py:unpermute": {"Mask must be provided": HOLDS, "": INSTALLED},
    "transformer/moe/moe_utils.py:sort_chunks_by_idxs": INSTALLED,
    "transformer/moe/moe_utils.py:topk_routing_with_score_function": {
        "Invalid score_function": "CL330",
        "Expected 2D logits": HOLDS,
        "": INSTALLED,
    },
    "transformer/moe/moe_utils.py:compute_routing_scores_for_aux_loss": {
        "Invalid score_function": "CL330",
        "": INSTALLED,
    },
    "transformer/moe/moe_utils.py:apply_router_token_dropping": {"Invalid drop_policy": "CL330", "": HOLDS},
    "transformer/moe/moe_utils.py:track_moe_metrics": CALLER,
    "transformer/moe/moe_utils.py:MoECudaGraphPartialCaptureSignal.get_early_return_outputs": GRAPHS,
    "transformer/moe/moe_utils.py:MoECudaGraphTensorStore.set": GRAPHS,
    "transformer/moe/moe_utils.py:maybe_skip_or_early_return_by_cudagraph.maybe_raise_signal": GRAPHS,
    "transformer/moe/moe_utils.py:maybe_skip_or_early_return_by_cudagraph.decorator.wrapped_func": GRAPHS,
    "transformer/moe/fused_a2a.py:init_hybrid_ep_buffer": HOLDS,
    "transformer/moe/grouped_gemm_util.py:assert_grouped_gemm_is_available": BUILD,
    "transformer/transformer_layer.py:get_transformer_layer_offset": BUILD,
    "transformer/transformer_layer.py:TransformerLayer.create_mcore_cudagraph_manager": GRAPHS,
    "transformer/transformer_layer.py:TransformerLayer._te_cuda_graph_replay": GRAPHS,
    "transformer/transformer_layer.py:TransformerLayer._get_te_cuda_graph_replay_args": GRAPHS,
    "transformer/transformer_layer.py:MoETransformerLayer._forward_mlp": INFERENCE,
    "transformer/transformer_block.py:get_num_layers_to_build": BUILD,
    "transformer/transformer_block.py:_get_block_submodules": BUILD,
    "transformer/transformer_block.py:TransformerBlock._checkpointed_forward": BUILD,
    "transformer/multi_token_prediction.py:_roll_tensor_packed_seq": BATCH,
    "transformer/multi_token_prediction.py:mtp_on_this_rank": BUILD,
    "transformer/multi_token_prediction.py:get_mtp_num_layers_to_build": BUILD,
    "transformer/multi_token_prediction.py:MultiTokenPredictionLayer._checkpointed_forward": {
        "recompute_num_layers must be 1": "CL327",
        "": BUILD,
    },
    "transformer/multi_token_prediction.py:MultiTokenPredictionLayer.forward": CROSS,
    "transformer/multi_token_prediction.py:_get_mtp_block_submodules": BUILD,
    "ssm/gated_delta_net.py:GatedDeltaNet.forward": {"packed sequence": BATCH, "self.activation": HOLDS, "": INFERENCE},
    "ssm/gated_delta_net.py:_split_tensor_factory": "Saves a checkpoint.",
    "ssm/mamba_mixer.py:MambaMixer.forward": {
        "packed_seq_params is None": BATCH,
        "ssm_state is None": HOLDS,
        "": INFERENCE,
    },
    "ssm/mamba_mixer.py:MambaMixer._decode": INFERENCE,
    "ssm/mamba_mixer.py:MambaMixer._ssm_training": INSTALLED,
    "ssm/mamba_mixer.py:MambaMixer._ssm_prefill": {
        "self.rmsnorm": "An argument of MambaMixer that no config has; the specs leave it on.",
        "self.activation": HOLDS,
        "": INFERENCE,
    },
    "ssm/mamba_mixer.py:MambaMixer._ssm_decode": INFERENCE,
    "ssm/mamba_mixer.py:MambaMixer._get_states_from_cache": INFERENCE,
    "ssm/mamba_mixer.py:_split_tensor_factory": "Saves a checkpoint.",
    "ssm/mamba_layer.py:MambaLayer._te_cuda_graph_replay": GRAPHS,
    "ssm/mamba_block.py:MambaStack._select_layers_for_pipeline_parallel": BUILD,
    "ssm/mamba_context_parallel.py:_all_to_all_cp2hp": HOLDS,
    "ssm/mamba_context_parallel.py:_all_to_all_hp2cp": HOLDS,
    "ssm/mamba_context_parallel.py:_undo_attention_load_balancing": BATCH,
    "ssm/mamba_context_parallel.py:_redo_attention_load_balancing": BATCH,
    "models/gpt/gpt_model.py:GPTModel.set_input_tensor": HOLDS,
    "models/gpt/gpt_model.py:GPTModel._preprocess": {"padding_mask": BATCH, "": INFERENCE},
    "models/gpt/gpt_model.py:GPTModel._postprocess": INFERENCE,
    "models/gpt/gpt_model.py:GPTModel.shared_embedding_or_output_weight": HOLDS,
    "models/gpt/fine_grained_callables.py:TransformerLayerNode.backward_dw": OVERLAP,
    "models/gpt/fine_grained_callables.py:build_transformer_layer_callables.raise_not_implemented": OVERLAP,
    "models/gpt/fine_grained_callables.py:build_mtp_layer_callables": OVERLAP,
    "models/gpt/fine_grained_callables.py:build_mtp_layer_callables.submodule_mtp_attn_forward": BATCH,
    "models/gpt/fine_grained_callables.py:build_layer_callables": OVERLAP,
    "models/mamba/mamba_model.py:MambaModel.set_input_tensor": HOLDS,
    "models/mamba/mamba_model.py:MambaModel.forward": INFERENCE,
    "models/common/language_module/language_module.py:LanguageModule._set_attention_backend.check_and_set_env_variable": BUILD,
    "models/common/language_module/language_module.py:LanguageModule.compute_language_model_loss": INSTALLED,
    "models/common/language_module/language_module.py:LanguageModule.setup_embeddings_and_output_layer": BUILD,
    "models/common/embeddings/language_model_embedding.py:LanguageModelEmbedding.forward": CALLER,
    "models/common/embeddings/rope_utils.py:get_pos_emb_on_this_cp_rank": HOLDS,
    "models/common/embeddings/rope_utils.py:_apply_rotary_pos_emb_thd": HOLDS,
    "models/common/embeddings/rope_utils.py:apply_rotary_pos_emb": BUILD,
    "models/common/embeddings/yarn_rotary_pos_embedding.py:YarnRotaryEmbedding.get_emb": BUILD,
    "models/common/model_chunk_schedule_plan.py:TransformerModelChunkSchedulePlan.get_layer": OVERLAP,
    "models/common/model_chunk_schedule_plan.py:TransformerModelChunkSchedulePlan.run": OVERLAP,
    "tensor_parallel/layers.py:set_tensor_model_parallel_attributes": BUILD,
    "tensor_parallel/layers.py:linear_with_frozen_weight": "CL332",
    "tensor_parallel/layers.py:LinearWithGradAccumulationAndAsyncCommunication.backward": (
        "The gradient of a trained weight of the base, and the base is frozen."
    ),
    "tensor_parallel/layers.py:ColumnParallelLinear.forward": {"CPU Offloading": INSTALLED, "": HOLDS},
    "tensor_parallel/layers.py:RowParallelLinear.forward": {"CPU Offloading": INSTALLED, "": HOLDS},
    "tensor_parallel/mappings.py:_reduce": HOLDS,
    "tensor_parallel/mappings.py:_split_along_last_dim": HOLDS,
    "tensor_parallel/mappings.py:_split_along_first_dim": {"divisible": BATCH, "": HOLDS},
    "tensor_parallel/mappings.py:_gather_along_first_dim": HOLDS,
    "tensor_parallel/mappings.py:_reduce_scatter_along_first_dim": {"divisible": BATCH, "": HOLDS},
    "tensor_parallel/mappings.py:_GatherFromSequenceParallelRegion.backward": HOLDS,
    "tensor_parallel/mappings.py:all_to_all": HOLDS,
    "tensor_parallel/random.py:convert_cuda_rng_state": CALLER,
    "tensor_parallel/random.py:CudaRNGStatesTracker.add": CALLER,
    "tensor_parallel/random.py:CudaRNGStatesTracker.fork": CALLER,
    "tensor_parallel/random.py:initialize_rng_tracker": INSTALLED,
    "tensor_parallel/random.py:get_all_rng_states": CALLER,
    "tensor_parallel/random.py:CheckpointFunction.backward": CALLER,
    "tensor_parallel/random.py:CheckpointWithoutOutput._recompute": CALLER,
    "tensor_parallel/cross_entropy.py:_VocabParallelCrossEntropy.forward": CALLER,
    "pipeline_parallel/schedules.py:deallocate_output_tensor": HOLDS,
    "pipeline_parallel/schedules.py:custom_backward": CALLER,
    "pipeline_parallel/schedules.py:forward_step_calc_loss": CALLER,
    "pipeline_parallel/schedules.py:forward_backward_no_pipelining": CALLER,
    "pipeline_parallel/schedules.py:forward_backward_pipelining_with_interleaving": {
        "Can not use both overlap_p2p_comm and batch_p2p_comm": "CL319",
        "config.microbatch_group_size_per_vp_stage > num_microbatches": "CL320",
        "final_microbatch_group_size": MICROBATCHES,
        "wait_handles": HOLDS,
        "": CALLER,
    },
    "pipeline_parallel/schedules.py:forward_backward_pipelining_with_interleaving.get_microbatch_id_in_model_chunk": HOLDS,
    "pipeline_parallel/schedules.py:forward_backward_pipelining_with_interleaving.pp_pre_forward": HOLDS,
    "pipeline_parallel/schedules.py:forward_backward_pipelining_with_interleaving.pp_pre_backward": HOLDS,
    "pipeline_parallel/schedules.py:forward_backward_pipelining_without_interleaving": {
        "does not support overlapping p2p communication": "CL319",
        "": CALLER,
    },
    "pipeline_parallel/p2p_communication.py:P2PCommunicator._communicate": {
        "config.pipeline_dtype is None": BUILD,
        "": CALLER,
    },
    "pipeline_parallel/combined_1f1b.py:combined_1f1b_schedule_for_interleaved_pipelining": OVERLAP,
    "pipeline_parallel/combined_1f1b.py:combined_forward_backward_step": {
        "isinstance(unwrapped_model, GPTModel)": "CL333",
        "AbstractSchedulePlan": CALLER,
        "": OVERLAP,
    },
    "optimizer/__init__.py:check_config_overrides_consistency": OPTIMIZER,
    "optimizer/optimizer.py:MegatronOptimizer._extract_common_per_param_step": OPTIMIZER,
    "optimizer/optimizer.py:Float16OptimizerWithFloat16Params._copy_model_params_to_main_params": OPTIMIZER,
    "optimizer/optimizer.py:ChainedOptimizer.optimizer": OPTIMIZER,
    "optimizer/optimizer.py:ChainedOptimizer.step_with_ready_grads": OPTIMIZER,
    "optimizer/optimizer.py:ChainedOptimizer.get_grad_stats_parallel_group": OPTIMIZER,
    "optimizer/optimizer.py:ChainedOptimizer._synchronize_steps": OPTIMIZER,
    "optimizer/distrib_optimizer.py:DistributedOptimizer._build_optimizer_group_ranges": OPTIMIZER,
    "optimizer/distrib_optimizer.py:DistributedOptimizer._param_name": OPTIMIZER,
    "optimizer/distrib_optimizer.py:DistributedOptimizer._update_legacy_world_tensors": OPTIMIZER,
    "optimizer/distrib_optimizer.py:DistributedOptimizer._get_fp8_params_and_shard_fp32_from_fp8.get_shard_fp32_from_fp8": OPTIMIZER,
    "optimizer/distrib_optimizer.py:DistributedOptimizer._copy_model_grads_to_main_grads.copy_group_grads": OPTIMIZER,
    "optimizer/distrib_optimizer.py:DistributedOptimizer._copy_main_params_to_model_params.copy_group_params": OPTIMIZER,
    "optimizer/distrib_optimizer.py:DistributedOptimizer._copy_model_params_to_main_params.copy_group_params": OPTIMIZER,
    "optimizer/clip_grads.py:clip_grad_by_total_norm_fp32": OPTIMIZER,
    "optimizer/clip_grads.py:count_zeros_fp32": OPTIMIZER,
    "extensions/transformer_engine.py:TEQuantizationRecipe.parse_from_config": QUANTISED,
    "extensions/transformer_engine.py:TEQuantizationParams.parse_from_config": QUANTISED,
    "extensions/transformer_engine.py:_get_fp8_autocast_for_quant_recipe": QUANTISED,
    "extensions/transformer_engine.py:TEDotProductAttention.forward": {"local_cp_size": BATCH, "": INSTALLED},
    "extensions/transformer_engine.py:TEFusedMLP._make_fused_impl": HOLDS,
    "extensions/transformer_engine.py:TEFusedMLP._make_activation_op": (
        "The fused MLP never calls its linears, so that none of it can be adapted: CL416."
    ),
    "extensions/transformer_engine.py:TEFusedMLP._register_hooks_on_fused_impl.forward_pre_hook": "CL416",
    "extensions/transformer_engine.py:TEFusedMLP._register_hooks_on_fused_impl.forward_post_hook": "CL416",
    "extensions/transformer_engine.py:TEFusedMLP._register_hooks_on_fused_impl": "CL416",
    "extensions/transformer_engine.py:te_checkpoint": INSTALLED,
    "extensions/transformer_engine.py:fused_apply_rotary_pos_emb": INSTALLED,
    "extensions/transformer_engine.py:fused_apply_rotary_pos_emb_thd": INSTALLED,
    "extensions/transformer_engine.py:set_save_original_input": INSTALLED,
}

SILENT: tuple[tuple[str, str, str], ...] = (
    (
        "transformer/attention.py:SelfAttention.get_query_key_value_tensors",
        "tp above num_query_groups with attention_output_gate: the gate is not cut to the rank, and a shape fails",
        "CL316",
    ),
    (
        "transformer/attention.py:SelfAttention.get_query_key_value_tensors",
        "tp above num_query_groups with fused_single_qkv_rope: the query heads are not cut to the rank",
        "CL329",
    ),
    (
        "transformer/attention.py:Attention.forward",
        "no_rope_freq with multi-token prediction: it indexes behind the decoder's last layer",
        "CL336",
    ),
    (
        "transformer/transformer_block.py:TransformerBlock._checkpointed_forward",
        "recompute_num_layers does not divide the layers of a chunk: it indexes behind the last one",
        "CL331",
    ),
    (
        "ssm/mamba_block.py:MambaStack.forward",
        "recompute_granularity full: nothing is recomputed",
        "CL335",
    ),
    (
        "transformer/multi_latent_attention.py:MLASelfAttention.get_query_key_value_tensors",
        "tp without sequence parallelism: the gradient of the shared rotary key is not summed",
        "CL313",
    ),
    (
        "transformer/moe/router.py:TopKRouter.routing",
        "moe_router_force_load_balancing: random experts",
        "CL324",
    ),
    (
        "transformer/moe/router.py:TopKRouter.routing",
        "an unknown moe_router_load_balancing_type: nothing is balanced",
        "CL330",
    ),
    (
        "models/common/embeddings/language_model_embedding.py:LanguageModelEmbedding.forward",
        "scatter_embedding_sequence_parallel off under sequence parallelism: each token runs tp times",
        "CL328",
    ),
    (
        "extensions/transformer_engine.py:TEDotProductAttention.forward",
        "cp above 1 with sinks, windows or latent attention, by cp_comm_type: Transformer Engine has no backend",
        "CL317",
    ),
    (
        "extensions/transformer_engine.py:TEDotProductAttention.forward",
        "cp_comm_type a2a and heads that do not divide by cp: Transformer Engine asserts",
        "CL318",
    ),
    (
        "transformer/mlp.py:MLP.forward",
        "the bias of a sequential expert is added in place to a view (Transformer Engine 2.17 and later)",
        "CL337",
    ),
    (
        "pipeline_parallel/p2p_communication.py:P2PCommunicator._communicate",
        "use_ring_exchange_p2p: torch.distributed.ring_exchange is missing",
        "CL319",
    ),
)
"""Function, what goes wrong in it without a `raise` or `assert` of megatron-core's own, and its
rule.
"""
