"""Canonical LoRA inside a Megatron-Bridge job.

    from clora.bridge import CanonicalLoRA

    config.peft = CanonicalLoRA(target_modules=["linear_q", "linear_v"], dim=16, alpha=32)

The class is a `PEFT` and a `ModuleMatcher` of Megatron-Bridge, so its recipes, its training, its
checkpoints and its export take it. docs/bridge.md says what works with which release.

Megatron-Bridge is imported when the name is first used, and never by `import clora`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora.bridge.canonical_lora import CanonicalLoRA as CanonicalLoRA

__all__ = ["CanonicalLoRA"]


def __getattr__(name: str) -> Any:
    # Python calls this for a name that the module does not have (PEP 562).
    if name not in __all__:
        raise AttributeError(f"module 'clora.bridge' has no attribute {name!r}")
    try:
        import megatron.bridge.peft.base  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"clora.bridge needs Megatron-Bridge, which cannot be imported here ({error}). In a job without it use "
            "clora.CanonicalLoRA, which takes the same fields.",
            name=error.name,
        ) from error
    from clora.bridge.canonical_lora import CanonicalLoRA

    return CanonicalLoRA
