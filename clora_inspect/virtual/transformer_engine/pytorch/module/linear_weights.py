"""The common part of `Linear` and `LayerNormLinear`: the weight, whole or in named parts, and the
communication over tp before and after its matmul. The real package has no such module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..tensor_parallel import accumulating_in_main_grad
from .base import (
    PARALLEL_MODES,
    TransformerEngineBaseModule,
    WeightGradStore,
    constant_init,
    set_tensor_model_parallel_attributes,
)
from .gemm import LinearKernel

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from .base import InitMethod, RngTracker


class LinearBase(TransformerEngineBaseModule):
    """Base of `Linear` and `LayerNormLinear`.

    Shapes: input `[..., I]`, weight `[O, I]`, bias `[O]`, output `[..., O]`, with `I` and `O` the
    features of this tp rank.
    """

    use_bias: bool
    return_bias: bool
    apply_bias: bool
    in_features: int
    out_features: int
    parallel_mode: str | None
    weight_names: list[str]
    bias_names: list[str]

    def __init__(
        self,
        name: str | None,
        *,
        in_features: int,
        out_features: int,
        bias: bool,
        return_bias: bool,
        fuse_wgrad_accumulation: bool,
        tp_group: ProcessGroup | None,
        tp_size: int,
        parallel_mode: str | None,
        sequence_parallel: bool,
        **overlaps: Any,
    ) -> None:
        super().__init__(name)
        self.in_features = in_features
        self.out_features = out_features
        self.fuse_wgrad_accumulation = fuse_wgrad_accumulation
        self.use_bias = bias
        self.return_bias = return_bias
        self.apply_bias = bias and not return_bias
        self._split_over_tp(tp_group, tp_size, parallel_mode)
        self.sequence_parallel = self.tp_size > 1 and sequence_parallel
        self._set_overlaps(**overlaps)
        self.gemm_bias_unfused_add = parallel_mode == "row" and self.apply_bias

    def _split_over_tp(self, tp_group: ProcessGroup | None, tp_size: int, parallel_mode: str | None) -> None:
        """Divide the features of all ranks together by the tp size, as `parallel_mode` says."""
        self._set_tp(tp_group, tp_size)
        if parallel_mode not in PARALLEL_MODES:
            raise AssertionError(f"parallel_mode {parallel_mode} not supported")
        self.parallel_mode = parallel_mode
        if parallel_mode == "column":
            self.out_features = _divided(self.out_features, self.tp_size)
        elif parallel_mode == "row":
            self.in_features = _divided(self.in_features, self.tp_size)

    def _set_overlaps(
        self,
        *,
        delay_wgrad_compute: bool,
        ub_overlap_ag: bool,
        ub_overlap_rs: bool,
        ub_overlap_rs_dgrad: bool,
        ub_bulk_dgrad: bool,
        ub_bulk_wgrad: bool,
        ub_name: str | None,
        symmetric_ar_type: str | None,
    ) -> None:
        """Set the attributes of options that change when communication happens, not its result.

        Each takes effect, and is true, only in the mode in which there is something to overlap.
        """
        self.wgrad_store = WeightGradStore(delay_wgrad_compute)
        column = self.parallel_mode == "column" and self.sequence_parallel
        row = self.parallel_mode == "row" and self.sequence_parallel
        self.ub_overlap_ag_fprop = column and ub_overlap_ag
        self.ub_overlap_rs_dgrad = column and ub_overlap_rs_dgrad
        self.ub_bulk_dgrad = column and ub_bulk_dgrad and not self.ub_overlap_rs_dgrad
        self.ub_bulk_wgrad = column and ub_bulk_wgrad and not self.ub_overlap_rs_dgrad
        self.ub_overlap_rs_fprop = row and ub_overlap_rs
        self.ub_overlap_ag_dgrad = row and ub_overlap_ag
        self.ub_name = ub_name
        self.symmetric_ar_type = symmetric_ar_type

    def _register_weights(
        self,
        *,
        parameters_split: tuple[str, ...] | dict[str, int] | None,
        init_method: InitMethod | None,
        get_rng_state_tracker: RngTracker | None,
        params_dtype: torch.dtype | None,
        device: torch.device | str,
    ) -> None:
        """Create and initialise the weights and then the biases. Without a bias there are empty
        tensors under the biases' names, as in the real class.
        """
        params_dtype = params_dtype or torch.get_default_dtype()
        # `parameters_split` counts the rows of all ranks together; each rank has a share of each
        # part.
        whole = self.out_features * self.tp_size if self.parallel_mode == "column" else self.out_features
        parts = _split_sizes(parameters_split, whole)
        local = self.tp_size if self.parallel_mode == "column" else 1
        self.weight_names = [f"{name}weight" for name in parts]
        self.bias_names = [f"{name}bias" for name in parts]
        self.parameter_split_sizes = [_divided(size, local) for size in parts.values()]
        for name, size in zip(self.weight_names, self.parameter_split_sizes, strict=True):
            weight = torch.empty(size, self.in_features, device=device, dtype=params_dtype)
            self.register_parameter(name, torch.nn.Parameter(weight), init_method, get_rng_state_tracker)
        for name, size in zip(self.bias_names, self.parameter_split_sizes, strict=True):
            bias = torch.empty(size if self.use_bias else 0, device=device, dtype=params_dtype)
            if self.use_bias:
                self.register_parameter(name, torch.nn.Parameter(bias), constant_init(0.0))
            else:
                setattr(self, name, bias)
        # DistributedDataParallel of megatron-core hooks these parameters up in another way: through
        # `register_wgrad_accumulation_and_reduce_hooks`.
        if self.need_backward_dw():
            for name in (*self.weight_names, *(self.bias_names if self.use_bias else ())):
                parameter: Any = getattr(self, name)
                parameter.skip_backward_post_hook = True
        self.reset_parameters(defer_init=torch.device(device).type == "meta")

    def reset_parameters(self, defer_init: bool = False) -> None:
        """Set the initial values, and the attributes that mark shards, unless `defer_init`."""
        super().reset_parameters(defer_init=defer_init)
        if defer_init:
            return
        for name in self.weight_names:
            dim = 1 if self.parallel_mode == "row" else 0
            set_tensor_model_parallel_attributes(getattr(self, name), is_parallel=True, dim=dim, stride=1)
        for name in self.bias_names if self.use_bias else ():
            bias: Any = getattr(self, name)
            if self.parallel_mode == "row":
                bias.sequence_parallel = self.sequence_parallel
            elif self.parallel_mode == "column":
                set_tensor_model_parallel_attributes(bias, is_parallel=True, dim=0, stride=1)

    def _matmul(self, x: torch.Tensor) -> torch.Tensor:
        """Return x W^T + b, summed over tp. The bias is added after the sum: it counts once."""
        y: torch.Tensor = LinearKernel.apply(x.to(self.activation_dtype), self._whole_weight(), self)  # type: ignore[no-untyped-call]
        return y + self._bias() if self.apply_bias else y

    def _whole_weight(self) -> torch.Tensor:
        weights = [self._weight(name) for name in self.weight_names]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def _weight(self, name: str) -> torch.Tensor:
        weight: torch.Tensor = getattr(self, name)
        if self.fuse_wgrad_accumulation:
            weight = accumulating_in_main_grad(weight)
        return weight.to(self.activation_dtype)

    def _bias(self) -> torch.Tensor:
        biases = [getattr(self, name) for name in self.bias_names]
        return (biases[0] if len(biases) == 1 else torch.cat(biases)).to(self.activation_dtype)


def _divided(size: int, parts: int) -> int:
    if size % parts:
        raise AssertionError(f"{size} is not divisible by {parts}")
    return size // parts


def _split_sizes(parameters_split: tuple[str, ...] | dict[str, int] | None, whole: int) -> dict[str, int]:
    """Return prefix of the parameter's name -> rows of all ranks together, for each part.

    `parameters_split` is the parts' names, for parts of one size, or names and sizes.

    Raises:
        ValueError: the sizes do not add up to `whole`.
    """
    if parameters_split is None:
        return {"": whole}
    if not isinstance(parameters_split, dict):
        parameters_split = dict.fromkeys(parameters_split, whole // len(parameters_split))
    if sum(parameters_split.values()) != whole:
        raise ValueError(f"Trying to split a weight of {whole} rows into {list(parameters_split.values())}")
    return {f"{name.rstrip('_')}_": size for name, size in parameters_split.items()}
