"""Megatron without a GPU: real megatron-core classes on virtual hardware.

Read `world.py` first (what is swapped in and given back), then `cluster.py` (which rank of which
cluster this process plays). `transformer_engine/`, `mamba_ssm/`, `causal_conv1d/`, `fla/` and
`fast_hadamard_transform/` are the stand-ins for the libraries that cannot exist without CUDA;
inside the virtual world they are importable under their own names. `real.py` is the other choice, a
GPU; `processes.py` runs every rank of a small cluster for real, on the CPU.
"""

from __future__ import annotations

from clora_inspect.virtual.real import megatron_on
from clora_inspect.virtual.virtual_cluster import virtual_cluster
from clora_inspect.virtual.world import VirtualDevice, WorldError, virtual_megatron

__all__ = ["VirtualDevice", "WorldError", "megatron_on", "virtual_cluster", "virtual_megatron"]
