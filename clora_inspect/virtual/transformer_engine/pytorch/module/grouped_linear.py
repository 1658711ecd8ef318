"""Stand-in for `transformer_engine.pytorch.module.grouped_linear`: one linear for each expert, over
rows that are sorted by expert.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from ...missing import needs_gpu, refuse_unknown_names
from ..tensor_parallel import accumulating_in_main_grad
from .base import (
    PARALLEL_MODES,
    TransformerEngineBaseModule,
    WeightGradStore,
    constant_init,
)
from .gemm import GroupedKernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributed import ProcessGroup

    from .base import InitMethod, RngTracker


class GroupedLinear(TransformerEngineBaseModule):
    """`num_gemms` linears with the weights `weight0`, `weight1`..., `[O, I]` each.

    The constructor takes the sizes of all tp ranks together, and `I` and `O` are this rank's. The
    forward does not communicate: megatron-core's token dispatcher does. As in the real class since
    2.13, the weights of experts are not marked as shards.
    """

    def __init__(
        self,
        num_gemms: int,
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
        device: torch.device | str = "cuda",
        ub_overlap_rs: bool = False,
        ub_overlap_ag: bool = False,
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        save_original_input: bool = False,
        single_grouped_weight: bool = False,
        single_grouped_bias: bool = False,
        name: str | None = None,
        use_grouped_tensor: bool | None = None,
    ) -> None:
        super().__init__(name)
        if ub_overlap_rs or ub_overlap_ag:
            raise AssertionError("GroupedLinear doesn't support Userbuffer overlap.")
        _refuse_single_parameters(single_grouped_weight, single_grouped_bias)
        self.single_grouped_weight = False
        self.single_grouped_bias = False
        self.use_grouped_tensor = bool(use_grouped_tensor)
        self.params_dtype = params_dtype or torch.get_default_dtype()
        self.init_method = init_method
        self.num_gemms = num_gemms
        self.fuse_wgrad_accumulation = fuse_wgrad_accumulation
        self.use_bias = bias
        self.return_bias = return_bias
        self.apply_bias = bias and not return_bias
        self.ub_overlap_rs = ub_overlap_rs
        self.ub_overlap_ag = ub_overlap_ag
        self.ub_name = ub_name
        self.save_original_input = save_original_input
        self.get_rng_state_tracker = get_rng_state_tracker
        self.rng_tracker_name = rng_tracker_name
        self.wgrad_store = WeightGradStore(delay_wgrad_compute)
        self._set_tp(tp_group, tp_size)
        if self.tp_size > 1 and bias:
            raise ValueError("GroupedLinear doesn't support bias when TP > 1: nobody would add it once.")
        if parallel_mode not in PARALLEL_MODES:
            raise AssertionError(f"parallel_mode {parallel_mode} not supported")
        self.parallel_mode = parallel_mode
        self.in_features = in_features // (self.tp_size if parallel_mode == "row" else 1)
        self.out_features = out_features // (self.tp_size if parallel_mode == "column" else 1)
        self.sequence_parallel = self.tp_size > 1 and sequence_parallel
        self._register_weights(init_method, self.params_dtype, device)
        self.reset_parameters(defer_init=torch.device(device).type == "meta")

    def _register_weights(self, init_method: InitMethod | None, dtype: torch.dtype, device: torch.device | str) -> None:
        shape = (self.out_features, self.in_features)
        no_bias = torch.empty(0, dtype=dtype, device=device)
        for i in range(self.num_gemms):
            weight = torch.nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
            self.register_parameter(f"weight{i}", weight, init_method, self.get_rng_state_tracker)
            if self.use_bias:
                bias = torch.nn.Parameter(torch.empty(self.out_features, dtype=dtype, device=device))
                self.register_parameter(f"bias{i}", bias, constant_init(0.0))
            else:
                # Not by nn.Module.__setattr__, which searches all tables of the module for the
                # name: a model has tens of thousands of experts.
                self.__dict__[f"bias{i}"] = no_bias
        if self.need_backward_dw():
            for parameter in self.parameters():
                marked: Any = parameter
                marked.skip_backward_post_hook = True

    def forward(
        self,
        inp: torch.Tensor,
        m_splits: Sequence[int] | torch.Tensor,
        is_first_microbatch: bool | None = None,
        out: torch.Tensor | None = None,
        dgrad_out: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        """Multiply the first `m_splits[0]` rows of `inp` by `weight0`, the next by `weight1`...

        Args:
            inp: rows `[..., I]`, sorted by expert.
            m_splits: number of rows of each expert.
            is_first_microbatch: ignored: it controls a cache of FP8 weights.
            out: not supported: memory for the result.
            dgrad_out: not supported: memory for the gradient of `inp`.

        Returns:
            `[..., O]`; with `return_bias` a pair of it and the list of all biases.

        Raises:
            AssertionError: `m_splits` has not one number for each expert.
            NotImplementedError: `out` or `dgrad_out` is given.
        """
        if out is not None or dgrad_out is not None:
            needs_gpu("transformer_engine.pytorch.GroupedLinear with memory for its results")
        if len(m_splits) != self.num_gemms:
            raise AssertionError("Number of splits should match number of GEMMs.")
        self.set_activation_dtype(inp)
        self.init_fp8_metadata(num_gemms=self.num_gemms)
        rows = inp.reshape(-1, inp.shape[-1]).to(self.activation_dtype)
        sizes = [int(size) for size in m_splits]
        biases = [getattr(self, f"bias{i}") for i in range(self.num_gemms)] if self.apply_bias else []
        product: torch.Tensor = GroupedKernel.apply(  # type: ignore[no-untyped-call]
            rows, sizes, self, *self._weights(), *(bias.to(self.activation_dtype) for bias in biases)
        )
        product = product.view(*inp.shape[:-1], self.out_features)
        if self.return_bias:
            return product, [getattr(self, f"bias{i}").to(self.activation_dtype) for i in range(self.num_gemms)]
        return product

    def _weights(self) -> list[torch.Tensor]:
        weights = [getattr(self, f"weight{i}") for i in range(self.num_gemms)]
        if self.fuse_wgrad_accumulation:
            weights = [accumulating_in_main_grad(weight) for weight in weights]
        return [weight.to(self.activation_dtype) for weight in weights]


def _refuse_single_parameters(weight: bool, bias: bool) -> None:
    """Refuse one parameter for all experts where the real class would make it. Without the
    environment variable it makes one for each expert, whatever the arguments say.

    Raises:
        NotImplementedError: it would make one parameter.
    """
    if (weight or bias) and int(os.getenv("NVTE_GROUPED_LINEAR_SINGLE_PARAM", "0")) > 0:
        needs_gpu(
            "transformer_engine.pytorch.GroupedLinear(single_grouped_weight=True)",
            "megatron-core asks for it with moe_single_grouped_weight or moe_single_grouped_bias: set them to false, "
            "or unset NVTE_GROUPED_LINEAR_SINGLE_PARAM, and each expert has parameters of its own.",
        )


__getattr__ = refuse_unknown_names(__name__)
