"""CUDA graphs. Inert: there is nothing to capture."""

from __future__ import annotations

from typing import NoReturn

from ..missing import needs_gpu, refusing


def make_graphed_callables(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.make_graphed_callables")


def save_fp8_tensors(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.graph.save_fp8_tensors")


def restore_fp8_tensors(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.graph.restore_fp8_tensors")


def set_capture_start() -> None:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.graph.set_capture_start")


def set_capture_end() -> None:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.graph.set_capture_end")


def is_graph_capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    return False


__getattr__ = refusing(__name__)
