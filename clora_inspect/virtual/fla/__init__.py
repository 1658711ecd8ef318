"""Stand-in for flash-linear-attention: what megatron-core's gated delta net is constructed from."""
