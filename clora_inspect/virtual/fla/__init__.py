"""Stand-in for flash-linear-attention: the two functions that `ssm/gated_delta_net.py` of
megatron-core imports. The originals are Triton kernels, which exist for GPUs only.
"""
