"""FP8 and FP4 state of the process. Nothing is ever quantized here; asking whether it is has an
answer.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from ..common.recipe import DelayedScaling, Recipe
from ..missing import needs_gpu, refusing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


class FP8GlobalStateManager:
    """What the quantization state of the process is: off."""

    FP8_ENABLED: ClassVar[bool] = False
    FP8_RECIPE: ClassVar[Recipe | None] = None
    IS_FIRST_FP8_MODULE: ClassVar[bool] = False
    skip_fp8_weight_update_tensor: ClassVar[torch.Tensor | None] = None

    @classmethod
    def is_fp8_enabled(cls) -> bool:
        return cls.FP8_ENABLED

    @classmethod
    def is_fp8_calibration(cls) -> bool:
        return False

    @classmethod
    def with_fp8_parameters(cls) -> bool:
        return False

    @classmethod
    def is_first_fp8_module(cls) -> bool:
        return False

    @classmethod
    def get_fp8_recipe(cls) -> Recipe:
        return cls.FP8_RECIPE or DelayedScaling()

    @classmethod
    def get_fp8_group(cls) -> None:
        return None

    @classmethod
    def get_fp8_autocast_state(cls) -> tuple[bool]:
        return (cls.FP8_ENABLED,)

    @classmethod
    def set_fp8_autocast_state(cls, fp8_state: tuple[bool]) -> None:
        (cls.FP8_ENABLED,) = fp8_state

    @classmethod
    def set_skip_fp8_weight_update_tensor(cls, skip: bool) -> None:
        pass

    @classmethod
    def reset(cls) -> None:
        cls.FP8_ENABLED = False
        cls.FP8_RECIPE = None


@contextmanager
def autocast(enabled: bool = True, recipe: Recipe | None = None, **_options: object) -> Iterator[None]:
    """Quantize GEMMs inside. Off, it is a context that does nothing.

    Raises:
        NotImplementedError: it is on.
    """
    if enabled:
        needs_gpu("transformer_engine.pytorch.autocast(enabled=True)")
    yield


@contextmanager
def fp8_autocast(enabled: bool = True, fp8_recipe: Recipe | None = None, **_options: object) -> Iterator[None]:
    """`autocast` under its older name."""
    with autocast(enabled, fp8_recipe):
        yield


@contextmanager
def fp8_model_init(enabled: bool = True, recipe: Recipe | None = None, **_options: object) -> Iterator[None]:
    """Make parameters in FP8 inside. Off, it is a context that does nothing.

    Raises:
        NotImplementedError: it is on.
    """
    if enabled:
        needs_gpu("transformer_engine.pytorch.fp8_model_init(enabled=True)")
    yield


quantized_model_init = fp8_model_init


def check_fp8_support() -> tuple[bool, str]:
    """Whether this device can compute in FP8, and why not."""
    return False, "There is no GPU here."


__getattr__ = refusing(__name__)
