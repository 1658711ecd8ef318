"""Which modules stand under the names of megatron-core and its GPU libraries: the user's or ours."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clora_inspect.virtual import rotary
from clora_inspect.virtual.attributes import replaced
from clora_inspect.virtual.sharded_data_parallel import deferred_for, is_left_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

REAL = ("megatron",)
"""Packages whose installed code we import, in a set of modules of our own."""

STAND_INS = ("transformer_engine", "mamba_ssm", "causal_conv1d", "fla", "fast_hadamard_transform")
"""Packages that are CUDA through and through; a stand-in of the same name lies beside this file."""

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
"""Optional CUDA packages. Never importable in the virtual world, so that a plan is the same on
every machine.
"""

_OURS = frozenset((*REAL, *STAND_INS, *ABSENT))
_FOLDER = Path(__file__).parent

KERNELS = {
    "megatron.core.inference.contexts.attention_context.triton.tensor_ops": _FOLDER / "mamba_tensor_ops.py",
}
"""Modules inside the real packages that import Triton unconditionally, and what stands in for them."""


def _uncompiled(model: object = None, **_options: object) -> object:
    """`torch.compile` that compiles nothing, as a function and as a decorator with options."""
    return model if model is not None else _uncompiled


class _Loader(SourceFileLoader):
    """Runs a module's body with `torch.compile` doing nothing, and makes what tensors it makes on
    the CPU.

    megatron-core decorates functions with it while it is imported, which pulls in dynamo: 1.6 s for
    code that a dry run never calls. And it keeps tensors in classes, which would have no values
    ever after if the first import happened while a model is built on meta.
    """

    running: ClassVar[list[str]] = []
    """Names of the modules whose bodies run now, the innermost last."""

    def exec_module(self, module: ModuleType) -> None:
        import torch

        self.running.append(module.__name__)
        try:
            with replaced(torch, {"compile": _uncompiled}), torch.device("cpu"), deferred_for(module.__name__):
                super().exec_module(module)
        finally:
            self.running.pop()
        if module.__name__ == rotary.MODULE:
            rotary.compute_on_the_cpu(module)


class _Finder(MetaPathFinder):
    """Finds our packages before anyone else does, under the names in which megatron-core imports
    them.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root = fullname.partition(".")[0]
        if root in ABSENT:
            raise ModuleNotFoundError(
                f"No module named {fullname!r} in the virtual world: it needs CUDA", name=fullname
            )
        if is_left_out(fullname, _Loader.running[-1] if _Loader.running else None):
            raise ModuleNotFoundError(
                f"No module named {fullname!r} in the virtual world: a plan has no sharded data parallelism",
                name=fullname,
            )
        if root in STAND_INS:
            return PathFinder.find_spec(fullname, path if path is not None else [str(_FOLDER)], target)
        if fullname in KERNELS:
            return spec_from_file_location(fullname, KERNELS[fullname])
        if root not in REAL:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class ModuleSet:
    """Our own modules under `REAL` and `STAND_INS`, kept between entries so that only the first one
    imports.
    """

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put ours in `sys.modules`; the user's, whatever they are, come back on exit."""
        users = _take_out()
        finder = _Finder()
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            self._modules = _take_out()
            sys.modules.update(users)


def _take_out() -> dict[str, ModuleType]:
    """Remove every module of the virtual world's packages from `sys.modules` and return them."""
    names = [name for name in sys.modules if name.partition(".")[0] in _OURS]
    return {name: sys.modules.pop(name) for name in names}
