"""Versions of what a plan depends on, read from package metadata: nothing is imported for it."""

from __future__ import annotations

import platform

STAND_IN = "stand-in"


def versions(device: str = "meta") -> dict[str, str]:
    """Package -> version. Transformer Engine is the pure-PyTorch stand-in unless the models are on
    a GPU.
    """
    return {
        "clora-inspect": _version("clora-inspect"),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "megatron-core": _version("megatron-core"),
        "transformer-engine": _version("transformer-engine") if device == "cuda" else STAND_IN,
    }


def _version(package: str) -> str:
    # It pulls in a parser of e-mails, for which the page of a rule need not wait.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
