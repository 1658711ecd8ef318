"""Stand-in for `transformer_engine.common.recipe`: descriptions of how a GPU job quantizes.

megatron-core makes a recipe from its config and subclasses `DelayedScaling`. Nothing here uses one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ..missing import refuse_unknown_names

if TYPE_CHECKING:
    from collections.abc import Callable


class _Maxima(NamedTuple):
    """Largest representable values of the forward and the backward pass."""

    max_fwd: int
    max_bwd: int


class Format(Enum):
    """Number formats; HYBRID is E4M3 in the forward and E5M2 in the backward pass."""

    E2M1 = _Maxima(6, 6)
    E4M3 = _Maxima(448, 448)
    E5M2 = _Maxima(57344, 57344)
    HYBRID = _Maxima(448, 57344)


class Recipe:
    """Base of all recipes, with a question for each kind of recipe."""

    def delayed(self) -> bool:
        return isinstance(self, DelayedScaling)

    def float8_current_scaling(self) -> bool:
        return isinstance(self, Float8CurrentScaling)

    def float8_per_tensor_scaling(self) -> bool:
        return isinstance(self, (DelayedScaling, Float8CurrentScaling))

    def float8_block_scaling(self) -> bool:
        return isinstance(self, Float8BlockScaling)

    def mxfp8(self) -> bool:
        return isinstance(self, MXFP8BlockScaling)

    def nvfp4(self) -> bool:
        return isinstance(self, NVFP4BlockScaling)

    def custom(self) -> bool:
        return isinstance(self, CustomRecipe)


@dataclass
class DelayedScaling(Recipe):
    """FP8 with scales from the maxima of past steps."""

    margin: int = 0
    fp8_format: Format = Format.HYBRID
    amax_history_len: int = 1024
    amax_compute_algo: str | Callable[..., object] = "max"
    scaling_factor_compute_algo: Callable[..., object] | None = None
    reduce_amax: bool = True
    fp8_dpa: bool = False
    fp8_mha: bool = False


@dataclass
class Float8CurrentScaling(Recipe):
    """FP8 with one scale per tensor."""

    fp8_format: Format = Format.HYBRID
    fp8_dpa: bool = False
    fp8_mha: bool = False


@dataclass
class MXFP8BlockScaling(Recipe):
    """FP8 with a power-of-two scale for every 32 values."""

    margin: int = 0
    fp8_format: Format = Format.E4M3
    fp8_dpa: bool = False
    fp8_mha: bool = False


@dataclass
class Float8BlockScaling(Recipe):
    """FP8 with one scale per block."""

    fp8_format: Format = Format.E4M3
    fp8_dpa: bool = False
    fp8_mha: bool = False


@dataclass
class NVFP4BlockScaling(Recipe):
    """FP4 with block scales."""

    fp4_format: Format = Format.E2M1
    fp8_format: Format = Format.E4M3
    fp8_dpa: bool = False
    fp8_mha: bool = False


@dataclass
class CustomRecipe(Recipe):
    """Quantizers made by the user's own factory."""

    qfactory: Callable[..., object]
    fp8_dpa: bool = False
    fp8_mha: bool = False


__getattr__ = refuse_unknown_names(__name__)
