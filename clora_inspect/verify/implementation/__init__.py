"""The implementations of canonical LoRA that can be proved, clora and the installed
Megatron-Bridge, behind one protocol.
"""
