"""Stand-in for `transformer_engine.pytorch.quantization`: the process's FP8 and FP4 state.

megatron-core asks for this state in each forward, also without FP8, and opens an `autocast` that is
off. So the state can be read here, but quantization cannot be switched on.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from ..common.recipe import DelayedScaling, Recipe
from ..missing import needs_gpu, refuse_unknown_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


class FP8GlobalStateManager:
    """The quantization state of the process, which is always off."""

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
    """Do nothing if it is off; if it is on, GEMMs inside would be quantized.

    Raises:
        NotImplementedError: `enabled` is true.
    """
    if enabled:
        needs_gpu("transformer_engine.pytorch.autocast(enabled=True)")
    yield


@contextmanager
def fp8_autocast(enabled: bool = True, fp8_recipe: Recipe | None = None, **_options: object) -> Iterator[None]:
    """Do as `autocast`, whose older name this is."""
    with autocast(enabled, fp8_recipe):
        yield


@contextmanager
def fp8_model_init(enabled: bool = True, recipe: Recipe | None = None, **_options: object) -> Iterator[None]:
    """Do nothing if it is off; if it is on, parameters made inside would be in FP8.

    Raises:
        NotImplementedError: `enabled` is true.
    """
    if enabled:
        needs_gpu("transformer_engine.pytorch.fp8_model_init(enabled=True)")
    yield


quantized_model_init = fp8_model_init


def check_fp8_support() -> tuple[bool, str]:
    """Return whether the device can compute in FP8, and the reason if it cannot."""
    return False, "There is no GPU here."


__getattr__ = refuse_unknown_names(__name__)
