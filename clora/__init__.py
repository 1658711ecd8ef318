"""Canonical LoRA for megatron-core: Q, K, V and up, gate of fused linears adapted separately.

    lora = CanonicalLoRA(dim=16, alpha=32)
    plan = lora.plan(model)          # frozen data: what will be wrapped, what not and why; changes
    nothing lora(model)                      # plans, freezes the base and adapts it in place, all
    or nothing revert(model)                    # gives back the model that was there

Names are imported when they are first used, so that `import clora` is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora.adapter_checkpoint import base_sharded_state as base_sharded_state
    from clora.adapter_checkpoint import load_adapters as load_adapters
    from clora.adapter_checkpoint import save_adapters as save_adapters
    from clora.adapters import GroupedExpertLinearAdapter as GroupedExpertLinearAdapter
    from clora.adapters import LinearAdapter as LinearAdapter
    from clora.adapters import ParallelLinearAdapter as ParallelLinearAdapter
    from clora.canonical_lora import CanonicalLoRA as CanonicalLoRA
    from clora.errors import AlreadyAdaptedError as AlreadyAdaptedError
    from clora.errors import CheckpointError as CheckpointError
    from clora.errors import CloraError as CloraError
    from clora.errors import HFAdapterError as HFAdapterError
    from clora.errors import MergeError as MergeError
    from clora.errors import SurgeryError as SurgeryError
    from clora.hf import export_hf as export_hf
    from clora.hf import import_hf as import_hf
    from clora.merge import merge_adapters as merge_adapters
    from clora.merge import unmerge_adapters as unmerge_adapters
    from clora.plan import Placement as Placement
    from clora.plan import Plan as Plan
    from clora.plan import Skip as Skip
    from clora.surgery import apply as apply
    from clora.surgery import merge_and_unload as merge_and_unload
    from clora.surgery import revert as revert
    from clora.wrappers import LoRALinear as LoRALinear
    from clora.wrappers import LoRALinearSplitFC1UpGate as LoRALinearSplitFC1UpGate
    from clora.wrappers import LoRALinearSplitQKV as LoRALinearSplitQKV
    from clora.wrappers import LoRATopKRouter as LoRATopKRouter
    from clora.wrappers import ModuleDict as ModuleDict

_HOME = {
    "AlreadyAdaptedError": "clora.errors",
    "CanonicalLoRA": "clora.canonical_lora",
    "CheckpointError": "clora.errors",
    "CloraError": "clora.errors",
    "GroupedExpertLinearAdapter": "clora.adapters",
    "HFAdapterError": "clora.errors",
    "LinearAdapter": "clora.adapters",
    "LoRALinear": "clora.wrappers",
    "LoRALinearSplitFC1UpGate": "clora.wrappers",
    "LoRALinearSplitQKV": "clora.wrappers",
    "LoRATopKRouter": "clora.wrappers",
    "MergeError": "clora.errors",
    "ModuleDict": "clora.wrappers",
    "ParallelLinearAdapter": "clora.adapters",
    "Placement": "clora.plan",
    "Plan": "clora.plan",
    "Skip": "clora.plan",
    "SurgeryError": "clora.errors",
    "apply": "clora.surgery",
    "base_sharded_state": "clora.adapter_checkpoint",
    "export_hf": "clora.hf",
    "import_hf": "clora.hf",
    "load_adapters": "clora.adapter_checkpoint",
    "merge_adapters": "clora.merge",
    "merge_and_unload": "clora.surgery",
    "revert": "clora.surgery",
    "save_adapters": "clora.adapter_checkpoint",
    "unmerge_adapters": "clora.merge",
}

__all__ = [
    "AlreadyAdaptedError",
    "CanonicalLoRA",
    "CheckpointError",
    "CloraError",
    "GroupedExpertLinearAdapter",
    "HFAdapterError",
    "LinearAdapter",
    "LoRALinear",
    "LoRALinearSplitFC1UpGate",
    "LoRALinearSplitQKV",
    "LoRATopKRouter",
    "MergeError",
    "ModuleDict",
    "ParallelLinearAdapter",
    "Placement",
    "Plan",
    "Skip",
    "SurgeryError",
    "apply",
    "base_sharded_state",
    "export_hf",
    "import_hf",
    "load_adapters",
    "merge_adapters",
    "merge_and_unload",
    "revert",
    "save_adapters",
    "unmerge_adapters",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clora' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
