"""The values of `cp_comm_type`: how the ranks of cp exchange keys and values. Pure."""

KINDS = ("p2p", "a2a", "all_gather", "a2a+p2p")
"""Transformer Engine knows these. megatron-core hands it any text, and a GPU is the first to
refuse it.
"""
