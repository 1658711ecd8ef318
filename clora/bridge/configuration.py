"""Let Megatron-Bridge make a `CanonicalLoRA` of a `run_config.yaml`.

From 0.4 it makes objects only of classes whose names it has in a list.
"""

from __future__ import annotations

from typing import Any

from megatron.bridge.utils import instantiate_utils

TARGET = "clora.bridge.CanonicalLoRA"
"""The value of `_target_`."""


def allow_target() -> None:
    """Enter this one class in the list, if there is one."""
    known: dict[str, Any] = vars(instantiate_utils)
    if "target_allowlist" in known:
        known["target_allowlist"].add_exact(TARGET)
    elif "register_allowed_target_prefix" in known:
        known["register_allowed_target_prefix"](TARGET)
