"""Megatron without a GPU: real megatron-core classes on virtual hardware.

Read the files in this order:

1. `world.py` enters the virtual world: what is swapped, why, and what is given back on exit. Each
   swap has a file: `module_set.py` (which modules an import finds), `cuda.py` (`torch.cuda`),
   `device.py` (the word "cuda" in arguments), `collectives.py` (gloo as if it were NCCL),
   `megatron_imports.py` (what only megatron-core's own imports find), `dynamo.py`, `rotary.py` and
   `sharded_data_parallel.py` (imports that cost seconds), `torch_data_parallel.py` (the wrapper of
   torch).
2. `virtual_cluster.py` lets this one process play one rank of a cluster of any size, and
   `model_parallel.py` initialises megatron-core's groups and random states for that rank.
3. `transformer_engine/`, `mamba_ssm/`, `causal_conv1d/`, `fla/` and `fast_hadamard_transform/` are
   stand-ins for libraries that cannot be imported without CUDA. Inside the virtual world they are
   importable under their own names. `transformer_engine/__init__.py` says what a stand-in must
   have. `triton/` is one for megatron-core alone. `releases.py` reads what differs between releases
   of megatron-core.
4. `processes.py` runs all ranks of a small cluster, each in a process of its own on the CPU;
   `preload.py` makes starting them cheap.
5. `real.py` uses this machine's GPU and the installed Transformer Engine instead of all this, and
   `reproducible.py` makes its kernels exact for the proofs.
"""

from __future__ import annotations

from clora_inspect.virtual.real import megatron_on
from clora_inspect.virtual.virtual_cluster import virtual_cluster
from clora_inspect.virtual.world import VirtualDevice, WorldError, virtual_megatron

__all__ = ["VirtualDevice", "WorldError", "megatron_on", "virtual_cluster", "virtual_megatron"]
