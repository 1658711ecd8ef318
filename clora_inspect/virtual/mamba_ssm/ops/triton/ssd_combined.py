"""The scan of a state-space model. Inert."""

from __future__ import annotations

from typing import NoReturn


def mamba_chunk_scan_combined(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    raise NotImplementedError("mamba_ssm.mamba_chunk_scan_combined computes on a GPU only.")


def mamba_split_conv1d_scan_combined(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    raise NotImplementedError("mamba_ssm.mamba_split_conv1d_scan_combined computes on a GPU only.")
