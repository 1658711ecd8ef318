"""Run the real Transformer Engine's Python code on a machine without CUDA.

Only its compiled parts are faked, by modules that have any name. This is enough to construct its
classes, which is all that the parity test needs of the real package.

Run as a program, it describes the cases of `te_cases.py` and prints them as JSON:
`python real_transformer_engine.py FOLDER_OF_THE_WHEEL DEVICE`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import re
import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent))

IMPORTED_ONLY = ("onnx", "onnxscript", "onnxscript.ir")
"""Packages that Transformer Engine imports for features that are not used here."""


class _Anything(type):
    """Metaclass of classes that stand for any value: any attribute of one is another such class,
    and it can be called, subscripted and joined by `|`, as annotations and decorators do.
    """

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _Anything(name, (_Nothing,), {})
        setattr(cls, name, value)
        return value

    def __or__(cls, other: object) -> type:
        return cls

    __ror__ = __or__

    def __int__(cls) -> int:
        return 0


class _Nothing(metaclass=_Anything):
    def __new__(cls, *_args: object, **_options: object) -> Any:
        return cls

    def __class_getitem__(cls, item: object) -> type:
        return cls


class _Faked(ModuleType):
    """A module in which any name is an `_Anything`."""

    __path__: list[str] = []  # noqa: RUF012 - Python takes the module for a package by this

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _Anything(name, (_Nothing,), {})
        setattr(self, name, value)
        return value


_DTYPES = "kByte kInt16 kInt32 kInt64 kFloat32 kFloat16 kBFloat16 kFloat8E4M3 kFloat8E5M2 kFloat8E8M0 kFloat4E2M1"
"""Members of the enumeration `transformer_engine_torch.DType`, in order, in releases that have none
of their own in Python.
"""


def _kernels(folder: str) -> list[str]:
    """Return the modules that are compiled, ahead of time or by Triton."""
    files = sorted(Path(folder, "transformer_engine/pytorch/triton").glob("*.py"))
    modules = [f"transformer_engine.pytorch.triton.{file.stem}" for file in files if file.stem != "__init__"]
    return ["transformer_engine_torch", "transformer_engine.pytorch.triton", *modules]


def _set_enumerations(compiled: Any, folder: str) -> None:
    """Give the compiled module the enumerations that newer releases repeat in Python. Each release
    compares the members of the two.
    """
    pytorch = Path(folder, "transformer_engine", "pytorch")
    dtypes = re.findall(r"= int\(tex\.DType\.(\w+)\)", (pytorch / "constants.py").read_text(encoding="utf-8"))
    compiled.DType = enum.IntEnum("DType", dtypes or _DTYPES.split(), start=0)
    attention = (pytorch / "cpp_extensions" / "fused_attn.py").read_text(encoding="utf-8")
    back_ends = re.findall(r"= int\(NVTE_Fused_Attn_Backend\.(\w+)\)", attention)
    if back_ends:
        compiled.NVTE_Fused_Attn_Backend = enum.IntEnum("NVTE_Fused_Attn_Backend", back_ends, start=0)


@contextmanager
def real_transformer_engine(folder: str, device: str) -> Iterator[None]:
    """Enter the virtual world with the real package in `folder` in the stand-in's place.

    Nothing is restored: this process does nothing else.
    """
    from clora_inspect.virtual import module_set, virtual_megatron

    module_set.STAND_INS = tuple(name for name in module_set.STAND_INS if name != "transformer_engine")
    module_set.ABSENT = tuple(name for name in module_set.ABSENT if name != "transformer_engine_torch")
    sys.path.insert(0, folder)
    # As while the package is being built: it does not search for its compiled libraries, and loads
    # no framework by itself.
    os.environ |= {"NVTE_PROJECT_BUILDING": "1", "NVTE_FRAMEWORK": "none"}
    with virtual_megatron(device):  # type: ignore[arg-type]
        import torch

        for name in (*_kernels(folder), *IMPORTED_ONLY):
            sys.modules[name] = _Faked(name)
        compiled: Any = sys.modules["transformer_engine_torch"]
        _set_enumerations(compiled, folder)
        compiled.get_cudnn_version = lambda: 91002
        # Recipes are dataclasses of pydantic, which nothing else here needs.
        for name in ("pydantic", "pydantic.dataclasses"):
            sys.modules[name] = ModuleType(name)
            sys.modules[name].dataclass = dataclasses.dataclass  # type: ignore[attr-defined]
        import transformer_engine.common

        transformer_engine.common.load_framework_extension = lambda _framework: None
        import transformer_engine.pytorch

        assert Path(transformer_engine.pytorch.__file__).is_relative_to(folder)
        # As after `initialize_ub`, which a trainer calls before it builds layers that overlap.
        transformer_engine.pytorch.module.base._ub_initialized = True
        # TransformerEngineBaseModule.__init__ raises if there is no GPU.
        torch.cuda.is_available = lambda: True
        yield


def main(folder: str, device: str) -> None:
    from clora_inspect.machine.quiet import quiet

    with quiet(), real_transformer_engine(folder, device):
        import te_description

        described = te_description.describe_everything(device)
    json.dump(described, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
