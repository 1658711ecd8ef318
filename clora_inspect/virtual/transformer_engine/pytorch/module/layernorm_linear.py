"""Stand-in for `transformer_engine.pytorch.module.layernorm_linear`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from ...missing import refuse_unknown_names
from .base import constant_init, normal_init
from .gemm import LayerNormLinearKernel
from .linear_weights import LinearBase

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from .base import InitMethod, RngTracker


class LayerNormLinear(LinearBase):
    """A norm over `[I]`, then a linear from `I` to `O` features.

    With sequence parallelism the norm sees this rank's part of the sequence, and the linear the
    whole sequence.
    """

    layer_norm_weight: torch.nn.Parameter
    layer_norm_bias: torch.nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        eps: float = 1e-5,
        sequence_parallel: bool = False,
        fuse_wgrad_accumulation: bool = False,
        tp_group: ProcessGroup | None = None,
        tp_size: int = 1,
        get_rng_state_tracker: RngTracker | None = None,
        init_method: InitMethod | None = None,
        bias: bool = True,
        normalization: str = "LayerNorm",
        return_bias: bool = False,
        params_dtype: torch.dtype | None = None,
        parallel_mode: str | None = None,
        return_layernorm_output: bool = False,
        return_layernorm_output_gathered: bool = False,
        parameters_split: tuple[str, ...] | dict[str, int] | None = None,
        zero_centered_gamma: bool = False,
        device: torch.device | str = "cuda",
        ub_overlap_ag: bool = False,
        ub_overlap_rs: bool = False,
        ub_overlap_rs_dgrad: bool = False,
        ub_bulk_wgrad: bool = False,
        ub_bulk_dgrad: bool = False,
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        symmetric_ar_type: str | None = None,
        name: str | None = None,
    ) -> None:
        if normalization not in ("LayerNorm", "RMSNorm"):
            raise AssertionError("Unsupported normalization type!")
        if parallel_mode == "row":
            raise NotImplementedError("Normalization does not support tensor-parallel distribution.")
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
        self.normalization = normalization
        self.return_layernorm_output = return_layernorm_output
        self.return_layernorm_output_gathered = return_layernorm_output and return_layernorm_output_gathered
        self.zero_centered_gamma = zero_centered_gamma
        self.eps = eps
        self._register_norm(params_dtype or torch.get_default_dtype(), device)
        self._register_weights(
            parameters_split=parameters_split,
            init_method=init_method or normal_init,
            get_rng_state_tracker=get_rng_state_tracker,
            params_dtype=params_dtype,
            device=device,
        )
        self.fwd_ln_sm_margin = int(os.getenv("NVTE_FWD_LAYERNORM_SM_MARGIN", "0"))
        self.bwd_ln_sm_margin = int(os.getenv("NVTE_BWD_LAYERNORM_SM_MARGIN", "0"))
        self.inf_ln_sm_margin = int(os.getenv("NVTE_INF_LAYERNORM_SM_MARGIN", "0"))

    def _register_norm(self, dtype: torch.dtype, device: torch.device | str) -> None:
        def parameter() -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.empty(self.in_features, device=device, dtype=dtype))

        self.register_parameter("layer_norm_weight", parameter(), constant_init(float(not self.zero_centered_gamma)))
        if self.normalization == "LayerNorm":
            self.register_parameter("layer_norm_bias", parameter(), constant_init(0.0))
        else:
            self.layer_norm_bias = None

    def reset_parameters(self, defer_init: bool = False) -> None:
        """Set the initial values, and the attributes that mark shards and replicated norms."""
        super().reset_parameters(defer_init=defer_init)
        if defer_init:
            return
        norm: list[Any] = [self.layer_norm_weight]
        if self.layer_norm_bias is not None:
            norm.append(self.layer_norm_bias)
        for parameter in norm:
            parameter.sequence_parallel = self.sequence_parallel

    def forward(
        self,
        inp: torch.Tensor,
        is_first_microbatch: bool | None = None,
        fp8_output: bool | None = False,
        fp8_grad: bool | None = False,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Normalise `inp` `[..., I]` and multiply it.

        Returns:
            `[..., O]`; then, if asked for by the constructor's options, the bias `[O]` and the
            norm's
            output: this rank's part of the sequence, or with `return_layernorm_output_gathered` the
            whole sequence.
        """
        self.set_activation_dtype(inp)
        self.init_fp8_metadata()
        out, normed = LayerNormLinearKernel.apply(  # type: ignore[no-untyped-call]
            inp.to(self.activation_dtype), self.layer_norm_weight, self.layer_norm_bias, self._whole_weight(), self
        )
        returned = [out + self._bias() if self.apply_bias else out]
        if self.return_bias:
            returned.append(self._bias())
        if self.return_layernorm_output:
            returned.append(normed)
        return tuple(returned) if len(returned) > 1 else returned[0]


__getattr__ = refuse_unknown_names(__name__)
