"""Read the versions of the packages that can change a plan."""

from __future__ import annotations

import platform

STAND_IN = "stand-in"
"""Stands for the version of Transformer Engine where ours, in pure PyTorch, takes its place."""


def versions(device: str = "meta") -> dict[str, str]:
    """Return package -> version, read from package metadata without importing the packages.

    Args:
        device: where the modules are built. The real Transformer Engine runs on `cuda` only.
    """
    return {
        "clora-inspect": _version("clora-inspect"),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "megatron-core": _version("megatron-core"),
        "transformer-engine": _version("transformer-engine") if device == "cuda" else STAND_IN,
    }


def _version(package: str) -> str:
    # importlib.metadata imports a parser of e-mails, which commands that plan nothing do not need.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
