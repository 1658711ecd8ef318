"""Let modules of recipes import packages that are not installed, and say so once one is used.

A recipe only describes data. The packages that read it are imported with the description, and a
job does not need them.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGES = ("datasets", "six", "megatron.energon")
"""Packages that modules of recipes import and that describe no model: readers of data and old
tokenizers.
"""


class AbsentPackageError(ImportError):
    """Something of a package that is not installed was used."""


class _Absent(type):
    """Type of the names of an absent package. They can be base classes and annotations."""

    def __call__(cls, *_arguments: object, **_named: object) -> Any:
        raise AbsentPackageError(f"it uses {cls.__module__}, which is not installed", name=cls.__module__)


class _AbsentModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(name, (), {"__module__": self.__name__})


class _Finder(MetaPathFinder, Loader):
    """Finds the packages, and all modules inside, after every other finder has found nothing."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(self, fullname: str, _path: object, _target: object = None, /) -> ModuleSpec | None:
        is_one = any(f"{fullname}.".startswith(f"{package}.") for package in self._packages)
        return ModuleSpec(fullname, self, is_package=True) if is_one else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__path__ = []


def allow_absent_packages() -> None:
    """Answer imports of these packages, as far as they are not installed, in the whole process."""
    absent = [package for package in _PACKAGES if find_spec(package) is None]
    sys.meta_path.append(_Finder(absent))
