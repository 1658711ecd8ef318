"""Find the installed Megatron-Bridge, and import parts of it.

Its top-level module would import the conversion of every model, with all the libraries that need.
So `megatron.bridge` is registered as an empty package, and only the parts that are asked for run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from clora.errors import DeviceError
from clora_inspect.bridge.import_failure import why_not
from clora_inspect.job.versions import release_of_source

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "megatron.bridge"
DISTRIBUTION = "megatron-bridge"


@dataclass(frozen=True, slots=True)
class Installed:
    """A Megatron-Bridge that can be imported here."""

    release: str
    folder: Path
    """The folder of the package `megatron.bridge`."""


def find() -> Installed | None:
    """Find the Megatron-Bridge that an import would take, and import nothing of it.

    It is a distribution, or a source tree on the import path, such as those of containers.
    """
    # importlib.metadata imports a parser of e-mails, which commands that plan nothing do not need.
    from importlib.metadata import PackageNotFoundError, version

    folder = next((path for path in _folders() if path.is_dir()), None)
    try:
        return Installed(version(DISTRIBUTION), folder or Path())
    except PackageNotFoundError:
        named = release_of_source(folder) if folder else None
    return Installed(named, folder) if named and folder else None


def _folders() -> Iterator[Path]:
    """Yield where the package can be: `megatron` is a namespace, and another part of it is
    megatron-core.
    """
    spec = find_spec("megatron")
    if spec is not None:
        yield from (Path(place) / "bridge" for place in spec.submodule_search_locations or ())


def release() -> str:
    """Return the version of the installed Megatron-Bridge.

    Raises:
        DeviceError: none is installed.
    """
    found = find()
    if found is None:
        raise DeviceError(
            "megatron-bridge: it is not installed here. pip install --no-deps megatron-bridge==0.3.1 is enough for its "
            "LoRA; to build a model it also needs transformers<5 and omegaconf>=2.4."
        )
    return found.release


def is_installed() -> bool:
    """Return whether a Megatron-Bridge is installed. It may need what is not."""
    return find() is not None


def part(name: str) -> ModuleType:
    """Import `megatron.bridge.NAME`. Call it inside `megatron_on`: on a CPU the package needs the
    stand-in for Transformer Engine.

    Raises:
        DeviceError: Megatron-Bridge is not installed, or something that it imports is not.
    """
    installed = release()
    before = set(sys.modules)
    try:
        _enter_package()
        return import_module(f"{PACKAGE}.{name}")
    # Beside what is missing, another megatron-core than its own raises AttributeError and more.
    except Exception as error:
        # A package of which a part is imported would answer the next job with that part.
        for module in [each for each in sys.modules if each.startswith(PACKAGE) and each not in before]:
            del sys.modules[module]
        raise DeviceError(f"{DISTRIBUTION}: {why_not(installed, error)}") from error


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
