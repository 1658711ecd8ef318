"""Stand-in for mamba_ssm: what megatron-core's Mamba layers are constructed from."""

from __future__ import annotations

__version__ = "2.2.6"
