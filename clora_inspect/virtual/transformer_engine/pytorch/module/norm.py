"""The common part of `LayerNorm` and `RMSNorm`. The real package has no such module: its two
classes are fusible operations with a subclass that adds the arguments of older releases.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from ..ops.op import BasicOperation

if TYPE_CHECKING:
    from collections.abc import Iterable


class Norm(BasicOperation):
    """A norm over the innermost dims, the shape `normalized_shape`, in which weight and bias are.

    With sequence parallelism each tp rank normalises its part of the sequence with the whole
    weight. megatron-core sums the gradients of parameters whose attribute `sequence_parallel` is
    true, so the norm sets it.
    """

    def __init__(
        self,
        normalized_shape: Iterable[int] | int | None = None,
        eps: float = 1e-5,
        sequence_parallel: bool | None = None,
        params_dtype: torch.dtype | None = None,
        zero_centered_gamma: bool = False,
        hidden_size: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        sm_margin: int = 0,
    ) -> None:
        super().__init__()
        shape = hidden_size if normalized_shape is None else normalized_shape
        if shape is None:
            raise RuntimeError("Neither `normalized_shape` nor `hidden_size` (deprecated) args are provided")
        self.sequence_parallel = sequence_parallel
        self.eps = eps
        self.zero_centered_gamma = zero_centered_gamma
        # How many multiprocessors the real kernels leave free for communication.
        self._sm_margins = {
            stage: int(os.getenv(f"NVTE_{variable}_LAYERNORM_SM_MARGIN", str(sm_margin)))
            for stage, variable in (("forward", "FWD"), ("backward", "BWD"), ("inference", "INF"))
        }
        self._register(
            (shape,) if isinstance(shape, int) else tuple(shape),
            torch.device(device if device is not None else torch.cuda.current_device()),
            dtype or params_dtype or torch.get_default_dtype(),
        )

    def _register(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> None:
        self.weight = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if device.type != "meta":
            self.reset_parameters()

    def reset_parameters(self, defer_init: bool | None = None) -> None:
        """Set the initial values and the attribute `sequence_parallel`, unless `defer_init`."""
        if defer_init:
            return
        torch.nn.init.constant_(self.weight, 0.0 if self.zero_centered_gamma else 1.0)
        self._mark(self.weight)

    def _mark(self, parameter: torch.nn.Parameter) -> None:
        if self.sequence_parallel is not None:
            marked: Any = parameter
            marked.sequence_parallel = self.sequence_parallel
