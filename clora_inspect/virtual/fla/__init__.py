"""Stand-in for flash-linear-attention: the functions that megatron-core's gated delta net imports.
The originals are Triton kernels, which exist for GPUs only.
"""
