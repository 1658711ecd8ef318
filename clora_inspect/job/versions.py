"""Read the versions of the packages that can change a plan."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from clora.folders.regular_file import LARGEST_SOURCE, read_regular_file

STAND_IN = "stand-in"
"""Stands for the version of Transformer Engine where ours, in pure PyTorch, takes its place."""

NOT_INSTALLED = "not installed"
"""Stands for the version of a package that is not there."""


def versions(device: str = "meta") -> dict[str, str]:
    """Return package -> version, without importing the packages.

    Args:
        device: where the modules are built. The real Transformer Engine runs on `cuda` only.
    """
    return {
        "clora-inspect": _version("clora-inspect"),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "megatron-core": megatron_core(),
        "transformer-engine": _version("transformer-engine") if device == "cuda" else STAND_IN,
    }


def _version(package: str) -> str:
    # importlib.metadata imports a parser of e-mails, which commands that plan nothing do not need.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def megatron_core() -> str:
    """Return the version of the megatron-core that an import would find; `NOT_INSTALLED` for none.

    A source tree on PYTHONPATH is imported before an installed release and has no metadata, so the
    metadata would name another release than the one that is planned with.
    """
    from importlib.util import find_spec

    try:
        # Not of megatron.core, which would import `megatron`, a namespace.
        spec = find_spec("megatron")
    except ValueError:
        spec = None
    folders = (Path(place) / "core" for place in (spec and spec.submodule_search_locations) or ())
    core = next((folder for folder in folders if folder.is_dir()), None)
    return (core and release_of_source(core)) or _version("megatron-core")


def release_of_source(folder: Path) -> str | None:
    """Return the version in `package_info.py` of a package of NVIDIA's; None if it says none."""
    try:
        source = read_regular_file(folder / "package_info.py", LARGEST_SOURCE).decode()
    except (OSError, UnicodeDecodeError):
        return None
    found = dict(re.findall(r"""^(MAJOR|MINOR|PATCH|PRE_RELEASE) *= *["']?(\w*)""", source, re.MULTILINE))
    numbers = [found.get(name) for name in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(map(str, numbers)) + found.get("PRE_RELEASE", "") if all(numbers) else None
