"""Import torch and megatron-core once, in the process from which all ranks are forked.

This module is a script for `multiprocessing`'s fork server: `processes.py` names it, and the server
imports it before it forks the first rank. Nothing else may import it. Four ranks that import for
themselves start in 15 s on two cores; forked from here they start in 4 s, and they share the memory
of what was imported.
"""

from __future__ import annotations

from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual.world import virtual_megatron

# The world keeps its modules after it is left (`module_set.ModuleSet`), so a forked rank that
# enters it again finds them imported.
with quiet(), virtual_megatron("cpu"):
    import megatron.core.dist_checkpointing
    import megatron.core.models.gpt.gpt_layer_specs
    import megatron.core.optimizer  # noqa: F401
