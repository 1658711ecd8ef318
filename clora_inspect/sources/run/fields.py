"""The fields of a run's model: those that decide what is built, and those that do not."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


REQUIRED = (
    *("num_layers", "hidden_size", "num_attention_heads", "num_query_groups", "kv_channels", "ffn_hidden_size"),
    *("vocab_size", "seq_length", "normalization", "activation_func", "gated_linear_unit", "add_bias_linear"),
    *("add_qkv_bias", "qk_layernorm", "position_embedding_type", "share_embeddings_and_output_weights"),
    "num_moe_experts",
)
"""Fields that the file of a run always has. Their defaults depend on the provider."""

NEVER_NULL = (
    *("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "seq_length", "normalization"),
    *("activation_func", "position_embedding_type"),
)

REQUIRED_OF_EXPERTS = ("moe_router_topk", "moe_ffn_hidden_size", "moe_layer_freq", "moe_grouped_gemm")

CONFIG = _words(
    """
    hetereogenous_dist_checkpoint init_method_std
    account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split activation_func
    activation_func_clamp_value add_bias_linear add_qkv_bias apply_residual_connection_post_layernorm
    attention_dropout attention_output_gate cp_comm_type distribute_saved_activations experimental_attention_variant
    ffn_hidden_size fp32_residual_connection gated_linear_unit glu_linear_offset heterogeneous_block_specs
    hierarchical_context_parallel_sizes
    hidden_dropout hidden_size kv_channels layernorm_epsilon layernorm_zero_centered_gamma mrope_section
    mtp_num_layers multi_latent_attention no_rope_freq normalization num_attention_heads num_layers
    num_layers_in_first_pipeline_stage num_layers_in_last_pipeline_stage num_moe_experts num_query_groups
    params_dtype pipeline_model_parallel_layout qk_l2_norm qk_layernorm recompute_granularity recompute_method
    recompute_modules recompute_num_layers rotary_interleaved softmax_scale softmax_type window_attn_skip_freq
    window_size
    """
)
"""Fields of `TransformerConfig` that decide what is built, for every model."""

ON_BY_DEFAULT = ("add_bias_linear",)
"""Flags of `CONFIG` that are on where a config of megatron-core leaves them out."""

OF_EXPERTS = _words(
    """
    moe_apply_probs_on_input moe_aux_loss_coeff moe_expert_capacity_factor moe_ffn_hidden_size moe_grouped_gemm
    moe_input_jitter_eps moe_latent_size moe_layer_freq moe_router_bias_update_rate moe_router_dtype
    moe_router_enable_expert_bias moe_router_group_topk moe_router_load_balancing_type moe_router_num_groups
    moe_router_pre_softmax moe_router_score_function moe_router_topk moe_router_topk_scaling_factor
    moe_shared_expert_gate moe_shared_expert_intermediate_size moe_token_dispatcher_type moe_z_loss_coeff
    """
)
"""Read if there are routed experts."""

OF_LATENT_ATTENTION = _words(
    """
    beta_fast beta_slow kv_lora_rank mscale mscale_all_dim original_max_position_embeddings q_lora_rank qk_head_dim
    qk_pos_emb_head_dim rope_type rotary_base rotary_percent rotary_scaling_factor v_head_dim
    """
)

OF_VARIANT = _words(
    """
    dsa_indexer_head_dim dsa_indexer_loss_coeff dsa_indexer_n_heads dsa_indexer_topk dsa_indexer_use_sparse_loss
    linear_attention_freq linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads linear_num_value_heads
    linear_value_head_dim
    """
)
"""Read if `experimental_attention_variant` is set. They have values in every file."""

ARGUMENTS = _words(
    """
    fp16_lm_cross_entropy parallel_output position_embedding_type rope_scaling rope_scaling_factor rotary_base
    rotary_percent scatter_embedding_sequence_parallel seq_len_interpolation_factor
    share_embeddings_and_output_weights
    """
)
"""Arguments of `GPTModel` that have the same name in a run."""

UNBUILT = (
    "restore_modelopt_state",
    "use_kitchen",
    "use_inference_optimized_layers",
    "use_transformer_engine_full_layer_spec",
)
"""Flags that make other layers than those that are built here."""

NO_INFLUENCE = _words(
    """
    activation_func_fp8_input_store apply_query_key_layer_scaling apply_rope_fusion
    async_tensor_model_parallel_allreduce attention_backend attention_softmax_in_fp32 autocast_dtype
    barrier_with_L1_time batch_invariant_mode batch_p2p_comm batch_p2p_sync bf16 bias_activation_fusion
    bias_dropout_fusion cache_mla_latents calculate_per_token_loss clone_scatter_output_in_embedding
    config_logger_dir cross_entropy_fusion_impl cross_entropy_loss_fusion deallocate_pipeline_outputs
    defer_embedding_wgrad_compute delay_wgrad_compute deterministic_mode disable_bf16_reduced_precision_matmul
    disable_parameter_transpose_cache embedding_init_method embedding_init_method_std enable_autocast
    enable_cuda_graph ep_overlap_early_attn_memory_release external_cuda_graph extra_checkpoint_metadata
    finalize_model_grads_func fine_grained_activation_offloading first_last_layers_bf16 flash_decode fp16
    fused_single_qkv_rope generation_config grad_scale_func grad_sync_func gradient_accumulation_fusion
    hf_model_id hybrid_context_parallel
    init_method init_model_with_meta_device is_hybrid_model kitchen_attention_backend
    log_max_attention_logit make_vocab_size_divisible_by masked_softmax_fusion max_position_embeddings
    max_seqlen_per_dp_cp_rank memory_efficient_layer_norm microbatch_group_size_per_vp_stage
    min_offloaded_tensor_size mlp_chunks_for_prefill moe_deepep_num_sms moe_enable_deepep moe_enable_routing_replay
    moe_extended_tp moe_flex_dispatcher_backend moe_hybridep_num_sms moe_layer_recompute
    moe_pad_expert_input_to_capacity moe_per_layer_logging moe_permute_fusion moe_router_force_load_balancing
    moe_router_fusion moe_router_padding_for_fp8 moe_router_padding_for_quantization moe_router_topk_limited_devices
    moe_shared_expert_overlap moe_token_drop_policy moe_token_dropping moe_use_legacy_grouped_gemm mtp_enabled
    mtp_loss_scaling_factor mtp_standalone no_sync_func num_layers_at_end_in_bf16 num_layers_at_start_in_bf16
    num_microbatches_with_partial_activation_checkpoints offload_modules output_layer_init_method
    overlap_moe_expert_parallel_comm overlap_p2p_comm overlap_p2p_comm_warmup_flush param_sync_func
    perform_initialization persist_layer_norm pipeline_dtype pipeline_model_parallel_comm_backend
    rotary_scaling_factor seq_length should_pad_vocab symmetric_ar_type test_mode timers tp_only_amax_red
    transformer_impl transformer_layer_spec use_arbitrary_attention_mask use_cpu_initialization
    use_fused_weighted_squared_relu use_mamba_mem_eff_path use_ring_exchange_p2p use_te_activation_func
    use_te_rng_tracker use_transformer_engine_op_fuser variable_seq_lengths vocab_size wgrad_deferral_limit
    """
)
"""Fields that change no module, such as those of kernels and of communication, or that are read by
themselves.
"""

NO_INFLUENCE_BEGINS = ("cpu_offloading", "cuda_graph", "fp4", "fp8", "inference_", "mamba_", "qk_clip", "tp_comm")
