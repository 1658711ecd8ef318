"""Find the installed Megatron-Bridge, and import parts of it.

Its top-level module would import the conversion of every model, with all the libraries that need.
So `megatron.bridge` is registered as an empty package, and only the parts that are asked for run.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType

from clora.errors import DeviceError

PACKAGE = "megatron.bridge"
DISTRIBUTION = "megatron-bridge"


def release() -> str:
    """Return the version of the installed Megatron-Bridge.

    Raises:
        DeviceError: none is installed.
    """
    # importlib.metadata imports a parser of e-mails, which commands that plan nothing do not need.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        raise DeviceError(
            "megatron-bridge: it is not installed here. pip install --no-deps megatron-bridge==0.3.1 is enough for its "
            "LoRA; to build a model it also needs transformers<5 and omegaconf>=2.4."
        ) from None


def is_installed() -> bool:
    """Return whether a Megatron-Bridge is installed. It may need what is not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(DISTRIBUTION)
    except PackageNotFoundError:
        return False
    return True


def part(name: str) -> ModuleType:
    """Import `megatron.bridge.NAME`. Call it inside `megatron_on`: on a CPU the package needs the
    stand-in for Transformer Engine.

    Raises:
        DeviceError: Megatron-Bridge is not installed, or something that it imports is not.
    """
    installed = release()
    try:
        _enter_package()
        return import_module(f"{PACKAGE}.{name}")
    except ImportError as error:
        raise DeviceError(
            f"megatron-bridge: release {installed} cannot be imported: {error}. Install what is missing."
        ) from error


def _enter_package() -> None:
    """Register `megatron.bridge` as an empty package, without running its top-level module."""
    if PACKAGE in sys.modules:
        return
    megatron = import_module("megatron")
    spec = PathFinder.find_spec(PACKAGE, list(megatron.__path__))
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    package = ModuleType(PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules[PACKAGE] = package
    megatron.bridge = package  # type: ignore[attr-defined]
