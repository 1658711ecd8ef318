"""Stand-in for mamba_ssm: what `ssm/mamba_mixer.py` of megatron-core imports. The originals are
Triton kernels, which exist for GPUs only.
"""

from __future__ import annotations

__version__ = "2.2.6"
"""The release whose signatures the stand-in has. `is_mamba_min_version` of megatron-core reads it
to decide whether packed sequences are supported.
"""
