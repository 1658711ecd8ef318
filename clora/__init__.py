"""Canonical LoRA for megatron-core: q, k, v, gate and up of fused linears are adapted separately.

    lora = CanonicalLoRA(target_modules=["linear_q", "linear_v"], dim=16, alpha=32)
    plan = lora.plan(model)            # look first: which linears get which adapters
    lora(model)                        # freeze the base and add the adapters in place
    save_adapters(model, "step-1000")  # after training; loads on any layout
    export_hf(model, "my-adapter", "path/to/Llama-3.1-8B")  # for PEFT, vLLM and SGLang

`model` is one rank's model or the list of its virtual pipeline chunks, and all ranks make these
calls together. What the names are for:

- Adapt: `CanonicalLoRA` has the settings, plans and adapts. `apply` carries out a plan that you
  have looked at, `revert` gives back the unadapted model.
- Look: a `Plan` has a `Placement` for every adapter, and a `Skip` with the reason for every module
  or part without one.
- Merge: `merge_adapters` folds the adapters into the base weights, `unmerge_adapters` takes them
  out again, `merge_and_unload` folds them in for good.
- Save: `save_adapters` and `load_adapters` write and read the adapters alone.
  `base_sharded_state` is what a checkpoint of the base is loaded into after surgery.
- Exchange: `export_hf` writes and `import_hf` reads a Hugging Face PEFT folder.
- Errors: every mistake that you can correct is a `CloraError`: `AlreadyAdaptedError`,
  `SurgeryError`, `MergeError`, `CheckpointError`, `HFAdapterError`, and more in `clora.errors`.
- Classes in an adapted model: a linear becomes a `LoRALinear`, `LoRALinearSplitQKV`,
  `LoRALinearSplitFC1UpGate` or `LoRATopKRouter`. Its child `adapter` is a `ParallelLinearAdapter`,
  `LinearAdapter` or `GroupedExpertLinearAdapter`, or a `ModuleDict` of these by canonical part.

Names are imported when they are first used: `import clora` loads neither torch nor megatron-core.
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

_MODULE_OF = {
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
"""Name -> the module that it is imported from. The imports above tell type checkers the same."""

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    # Python calls this for a name that the module does not have (PEP 562).
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'clora' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
