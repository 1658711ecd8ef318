"""Stand-in for `transformer_engine.pytorch.module.linear`: y = x W^T + b.

The weight is split over the tp axis by rows, by columns or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...missing import refuse_unknown_names
from .linear_weights import LinearBase

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from .base import InitMethod, RngTracker


class Linear(LinearBase):
    """A linear layer. Shapes: `I` input features, `O` output features of this tp rank.

    The constructor takes the sizes of all ranks together; the attributes `in_features` and
    `out_features` are this rank's.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        sequence_parallel: bool = False,
        fuse_wgrad_accumulation: bool = False,
        tp_group: ProcessGroup | None = None,
        tp_size: int = 1,
        get_rng_state_tracker: RngTracker | None = None,
        rng_tracker_name: str | None = None,
        init_method: InitMethod | None = None,
        bias: bool = True,
        return_bias: bool = False,
        params_dtype: torch.dtype | None = None,
        parallel_mode: str | None = None,
        parameters_split: tuple[str, ...] | dict[str, int] | None = None,
        device: torch.device | str = "cuda",
        ub_overlap_ag: bool = False,
        ub_overlap_rs: bool = False,
        ub_overlap_rs_dgrad: bool = False,
        ub_bulk_dgrad: bool = False,
        ub_bulk_wgrad: bool = False,
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        symmetric_ar_type: str | None = None,
        save_original_input: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            name,
            in_features=in_features,
            out_features=out_features,
            bias=bias,
            return_bias=return_bias,
            fuse_wgrad_accumulation=fuse_wgrad_accumulation,
            tp_group=tp_group,
            tp_size=tp_size,
            parallel_mode=parallel_mode,
            sequence_parallel=sequence_parallel,
            delay_wgrad_compute=delay_wgrad_compute,
            ub_overlap_ag=ub_overlap_ag,
            ub_overlap_rs=ub_overlap_rs,
            ub_overlap_rs_dgrad=ub_overlap_rs_dgrad,
            ub_bulk_dgrad=ub_bulk_dgrad,
            ub_bulk_wgrad=ub_bulk_wgrad,
            ub_name=ub_name,
            symmetric_ar_type=symmetric_ar_type,
        )
        self.get_rng_state_tracker = get_rng_state_tracker
        self.rng_tracker_name = rng_tracker_name
        self.save_original_input = save_original_input
        self._register_weights(
            parameters_split=parameters_split,
            init_method=init_method,
            get_rng_state_tracker=get_rng_state_tracker,
            params_dtype=params_dtype,
            device=device,
        )

    def forward(
        self,
        inp: torch.Tensor,
        is_first_microbatch: bool | None = None,
        fp8_output: bool | None = False,
        fp8_grad: bool | None = False,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return `[..., O]` for `inp` `[..., I]`; with `return_bias` also the bias `[O]`."""
        self.set_activation_dtype(inp)
        self.init_fp8_metadata()
        out = self._matmul(inp)
        return (out, self._bias()) if self.return_bias else out


__getattr__ = refuse_unknown_names(__name__)
