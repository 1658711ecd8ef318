"""Megatron-Bridge: what its canonical LoRA does to a model, as a plan.

It is optional, and imported only where a user names it. Its own classes run inside the virtual
world, beside the megatron-core that they are made for.
"""
