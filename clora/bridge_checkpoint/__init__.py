"""Adapter checkpoints as Megatron-Bridge writes them: how its files differ from clora's, and the
shards that read and write them.

The keys and most tensors are the same. What differs between releases is listed in
docs/differences.md, and `forms` decides it.
"""
