"""The real Transformer Engine's Python code on a machine without CUDA: only what is compiled is
faked.

Run as a program it describes what `te_description.py` asks for and prints it as JSON:
`python real_transformer_engine.py FOLDER_OF_THE_WHEEL DEVICE`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent))

KERNELS = (
    "transformer_engine_torch",
    "transformer_engine.pytorch.triton",
    "transformer_engine.pytorch.triton.pad",
    "transformer_engine.pytorch.triton.permutation",
    "transformer_engine.pytorch.triton.cross_entropy",
)
"""What is compiled, ahead of time or by Triton."""

IMPORTED_ONLY = ("onnx", "onnxscript", "onnxscript.ir")
"""What Transformer Engine imports for features that nothing here uses."""


class _Anything(type):
    """A class whose every attribute is another such class, that can be called, subscripted and
    joined by `|`.
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


class _Nothing(metaclass=_Anything):
    def __new__(cls, *_args: object, **_options: object) -> Any:
        return cls

    def __class_getitem__(cls, item: object) -> type:
        return cls


class _Faked(ModuleType):
    """A module that has every name."""

    __path__: list[str] = []  # noqa: RUF012 - that of a package

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
"""Of the compiled part's own enumeration, in order."""


@contextmanager
def real_transformer_engine(folder: str, device: str) -> Iterator[None]:
    """Be in the virtual world, with the real package in `folder` where the stand-in would be."""
    from clora_inspect.virtual import module_set, virtual_megatron

    module_set.STAND_INS = tuple(name for name in module_set.STAND_INS if name != "transformer_engine")
    module_set.ABSENT = tuple(name for name in module_set.ABSENT if name != "transformer_engine_torch")
    sys.path.insert(0, folder)
    # As when the package is built: its own search for compiled libraries is skipped, and no
    # framework is loaded unasked.
    os.environ |= {"NVTE_PROJECT_BUILDING": "1", "NVTE_FRAMEWORK": "none"}
    with virtual_megatron(device):  # type: ignore[arg-type]
        import torch

        for name in (*KERNELS, *IMPORTED_ONLY):
            sys.modules[name] = _Faked(name)
        compiled: Any = sys.modules["transformer_engine_torch"]
        compiled.DType = enum.IntEnum("DType", _DTYPES, start=0)
        compiled.get_cudnn_version = lambda: 91002
        for name in ("pydantic", "pydantic.dataclasses"):
            sys.modules[name] = ModuleType(name)
            sys.modules[name].dataclass = dataclasses.dataclass  # type: ignore[attr-defined]
        import transformer_engine.common

        transformer_engine.common.load_framework_extension = lambda _framework: None
        import transformer_engine.pytorch

        assert Path(transformer_engine.pytorch.__file__).is_relative_to(folder)
        # Transformer Engine refuses to construct anything where there is none.
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
