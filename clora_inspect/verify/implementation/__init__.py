"""The implementations of canonical LoRA that can be proved, behind one protocol: ours, and the
installed Megatron-Bridge's.
"""
