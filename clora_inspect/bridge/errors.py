"""Errors of an installed Megatron-Bridge. Pure."""

from __future__ import annotations

from clora.errors import CloraError


class BridgeSurgeryError(CloraError):
    """Megatron-Bridge raised while it adapted a model. The job would stop there."""


class BridgeFieldError(CloraError):
    """The job sets a LoRA field that the installed Megatron-Bridge does not have."""
