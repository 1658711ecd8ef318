"""Canonical LoRA for megatron-core: Q, K, V and up, gate of fused linears adapted separately.

    lora = CanonicalLoRA(dim=16, alpha=32)
    plan = lora.plan(model)          # frozen data: what will be wrapped, what not and why; changes nothing

Names are imported when they are first used, so that `import clora` is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora.canonical_lora import CanonicalLoRA as CanonicalLoRA
    from clora.errors import CloraError as CloraError
    from clora.plan import Placement as Placement
    from clora.plan import Plan as Plan
    from clora.plan import Skip as Skip

_HOME = {
    "CanonicalLoRA": "clora.canonical_lora",
    "CloraError": "clora.errors",
    "Placement": "clora.plan",
    "Plan": "clora.plan",
    "Skip": "clora.plan",
}

__all__ = ["CanonicalLoRA", "CloraError", "Placement", "Plan", "Skip"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clora' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
