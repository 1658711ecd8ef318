"""Decide which modules stand under the names of megatron-core and its GPU libraries.

Outside of the virtual world these are the user's, whatever is installed. Inside, they are a second
set, kept by `ModuleSet`: megatron-core is imported a second time from the installed files, and GPU
libraries come from the stand-ins in this folder.

There have to be two sets because megatron-core chooses its classes while it is imported. If it
found no Transformer Engine then, it has no classes for it later; and if the user's set had found
our stand-in, it would keep it after the world is left.

A module that was imported inside and holds such a class, or derives one of its own from it, belongs
to the set as well. Outside it is imported again, with the user's classes.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from clora_inspect.virtual import indexer, rotary
from clora_inspect.virtual.attributes import replaced
from clora_inspect.virtual.compiled import compile_nothing
from clora_inspect.virtual.megatron_imports import BUILTINS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import CodeType

REAL = ("megatron",)
"""Packages whose installed code is imported, as a second set of modules."""

STAND_INS = ("transformer_engine", "mamba_ssm", "causal_conv1d", "fla", "fast_hadamard_transform")
"""Packages that cannot be imported without CUDA. Each has a stand-in of its name in this folder."""

ABSENT = (
    "transformer_engine_torch",
    "apex",
    "deep_ep",
    "flash_attn",
    "flash_attn_3",
    "flash_mla",
    "flashattn_hopper",
    "fused_weight_gradient_mlp_cuda",
)
"""Optional CUDA packages. megatron-core imports each in a `try` and picks other classes if it is
there. They are never importable in the virtual world, so that a plan is the same on each machine.
"""

_OURS = frozenset((*REAL, *STAND_INS, *ABSENT))
_FOLDER = Path(__file__).parent

_OUR_CLASSES = "clora_inspect.sources.gpt."
"""Start of the names of our own modules that derive classes from megatron-core's."""

_HOLD_NOTHING = frozenset(("torch", "numpy", "sympy", "mpmath", "clora", "clora_inspect", *sys.stdlib_module_names))
"""Packages whose modules hold no class of megatron-core, and are not searched for one."""


class _Loader(SourceFileLoader):
    """Run the body of a module of megatron-core so that it neither compiles nor uses meta tensors.

    - `jit.py` makes `jit_fuser` an alias of `torch.compile`, which decorates functions at import.
    - Some classes keep a tensor, for example `MTPLossAutoScaler.main_loss_backward_scale`, made at
      import. If the first import happens while a model is built on meta, the tensor would have no
      value for the life of the process. So it is made on the CPU.
    """

    def source_to_code(self, *args: Any, **options: Any) -> CodeType:  # type: ignore[override]
        # Warnings about megatron-core's source, such as an escape in a docstring of 0.19, are of no
        # use to our users.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return super().source_to_code(*args, **options)

    def exec_module(self, module: ModuleType) -> None:
        import torch

        vars(module)["__builtins__"] = BUILTINS
        with replaced(torch, {"compile": compile_nothing}), torch.device("cpu"):
            super().exec_module(module)
        if module.__name__ == rotary.ROTARY_MODULE:
            rotary.compute_on_the_cpu(module)
        if module.__name__ == indexer.INDEXER_MODULE:
            indexer.rotate_in_any_dtype(module)


class _Finder(MetaPathFinder):
    """Find the packages of the virtual world. It stands first in `sys.meta_path`, so it is asked
    before Python's own finders; for all other packages it returns None.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root = fullname.partition(".")[0]
        if root in STAND_INS:
            # A submodule is looked for in its package's own folder, `path`. Only a top-level
            # package has none, and is looked for beside this file instead of in sys.path.
            return PathFinder.find_spec(fullname, path if path is not None else [str(_FOLDER)], target)
        if root not in REAL:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        # Namespace packages and compiled modules (a dataset helper in C++) keep their own loader.
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class ModuleSet:
    """The modules of the virtual world under the names in `REAL` and `STAND_INS`.

    They are kept from one entry to the next, so that only the first entry of a process imports.
    """

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the virtual world's modules into `sys.modules`, and the user's back on exit."""
        modules_of_user = _pop_modules(self._modules)
        finder = _Finder()
        sys.modules.update(self._modules)
        # This is how Python itself notes that a module is absent: importing it raises, and
        # `importlib.util.find_spec`, by which transformers asks for packages, returns None.
        sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type]
        sys.meta_path.insert(0, finder)
        before = set(sys.modules)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            # Modules imported during this entry join the set.
            new = {name: module for name, module in sys.modules.items() if name not in before}
            self._modules = _pop_modules(self._modules.keys() | _holders(new))
            sys.modules.update(modules_of_user)


def _pop_modules(others: Iterable[str]) -> dict[str, ModuleType]:
    """Remove all modules with a name of the virtual world, and `others`, from `sys.modules` and
    return them.
    """
    names = [name for name in sys.modules if name.partition(".")[0] in _OURS or name.startswith(_OUR_CLASSES)]
    return {name: sys.modules.pop(name) for name in {*names, *others} if name in sys.modules}


def _holders(modules: Mapping[str, ModuleType]) -> set[str]:
    """Return the names of the modules that hold a class, function or module of the virtual world,
    or one of another module that does.
    """
    searched = {
        name: _origins(module)
        for name, module in modules.items()
        if name.partition(".")[0] not in (_HOLD_NOTHING | _OURS)
    }
    found: set[str] = set()
    while more := {
        name
        for name, origins in searched.items()
        if name not in found and any(origin in found or origin.partition(".")[0] in _OURS for origin in origins)
    }:
        found |= more
    return found


def _origins(module: ModuleType) -> set[str]:
    """Return the names of the modules that the values of a module come from."""
    origins = set()
    for value in vars(module).values() if issubclass(type(module), ModuleType) else ():
        # `type` and not `isinstance`, which asks the value: one of tensorboard's then parses the
        # command line.
        kind = type(value)
        if issubclass(kind, ModuleType):
            origins.add(value.__name__)
        elif issubclass(kind, type):
            origins.update(base.__module__ for base in value.__mro__)
        elif kind is FunctionType:
            origins.add(value.__module__)
    return {origin for origin in origins if type(origin) is str}
