"""Import torch and megatron-core once, in the server process from which all ranks are forked.

`processes.py` names this module to `multiprocessing`'s fork server. Four ranks that import for
themselves take 15 s on two cores; forked from here they take 4 s, and share the memory of what was
imported.
"""

from __future__ import annotations

from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual.world import virtual_megatron

# Entering the world keeps its set of modules in this process, so a forked rank finds them there.
with quiet(), virtual_megatron("cpu"):
    import megatron.core.dist_checkpointing
    import megatron.core.models.gpt.gpt_layer_specs
    import megatron.core.optimizer  # noqa: F401
