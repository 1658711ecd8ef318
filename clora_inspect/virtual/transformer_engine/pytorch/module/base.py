"""What all Transformer Engine layers have in common: parameter registration, initialisation and
inert FP8 state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ...missing import needs_gpu, refusing
from ..quantization import FP8GlobalStateManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import ProcessGroup

    InitMethod = Callable[[torch.Tensor], object]
    RngTracker = Callable[[], Any]

PARALLEL_MODES = ("row", "column", None)
"""How a linear splits its weight over the tp axis; None does not split."""


def normal_init(weight: torch.Tensor) -> torch.Tensor:
    """The initialisation of a weight for which nobody asked for another."""
    return torch.nn.init.normal_(weight, mean=0.0, std=0.023)


def constant_init(value: float) -> InitMethod:
    """Initialisation to a constant."""
    return lambda weight: torch.nn.init.constant_(weight, value)


def set_tensor_model_parallel_attributes(tensor: torch.Tensor, is_parallel: bool, dim: int, stride: int) -> None:
    """Mark a parameter as one shard of a bigger one, in megatron-core's words."""
    parameter: Any = tensor
    parameter.tensor_model_parallel = is_parallel
    parameter.partition_dim = dim
    parameter.partition_stride = stride


class _Initialisation(NamedTuple):
    """How a parameter gets its values."""

    init_fn: InitMethod
    get_rng_state_tracker: RngTracker | None


@dataclass
class WeightGradStore:
    """Whether weight gradients are asked for later, through `backward_dw`."""

    enabled: bool = False

    def delay_wgrad_compute(self) -> bool:
        """Whether weight gradients are asked for later."""
        return self.enabled


class TransformerEngineBaseModule(torch.nn.Module):
    """Base of the linears and of attention."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.fp8_initialized = False
        self.fp8 = False
        self.fp8_calibration = False
        self.fp8_meta: dict[str, Any] = {"fp8_checkpoint": False, "fp8_group": None}
        self.fp8_meta_tensors_initialized = False
        self.quantizers: dict[str, Any] = {"scaling_fwd": {}, "scaling_bwd": {}}
        self.tp_group: ProcessGroup | None = None
        self.tp_size = 1
        self.sequence_parallel = False
        self.param_init_meta: dict[str, _Initialisation] = {}
        self.primary_weights_in_fp8 = FP8GlobalStateManager.with_fp8_parameters()
        self.preserve_high_precision_init_val = False
        self.fsdp_wrapped = False
        self.fsdp_group: ProcessGroup | None = None
        self.activation_dtype: torch.dtype | None = None
        self.wgrad_accumulation_and_reduce_hooks: list[Callable[[], object]] = []
        self.wgrad_store: WeightGradStore | None = None

    def register_parameter(
        self,
        name: str,
        param: torch.nn.Parameter | None,
        init_fn: InitMethod | None = None,
        get_rng_state_tracker: RngTracker | None = None,
    ) -> None:
        """Register a parameter and remember how it is initialised."""
        super().register_parameter(name, param)
        self.param_init_meta.setdefault(name, _Initialisation(init_fn or normal_init, get_rng_state_tracker))

    def reset_parameters(self, defer_init: bool = False) -> None:
        """Give every parameter of this very module its initial values, unless deferred (the meta
        device).
        """
        if defer_init:
            return
        rng_tracker_name: str | None = getattr(self, "rng_tracker_name", None)
        for name, parameter in self.named_parameters(recurse=False):
            init_fn, get_rng_state_tracker = self.param_init_meta[name]
            with torch.no_grad():
                if get_rng_state_tracker is None:
                    init_fn(parameter)
                else:
                    names = (rng_tracker_name,) if rng_tracker_name else ()
                    with get_rng_state_tracker().fork(*names):
                        init_fn(parameter)

    def set_tensor_parallel_group(self, tp_group: ProcessGroup | None) -> None:
        """Set the group over which the weight is split. Needed before a forward with tp > 1."""
        self.tp_group = tp_group
        self.tp_group_initialized = True

    def set_activation_dtype(self, inp: torch.Tensor) -> None:
        """Remember in which dtype we compute: autocast's, else the input's, which the parameters
        must share.

        Raises:
            AssertionError: the dtypes differ.
        """
        if torch.is_autocast_enabled():
            self.activation_dtype = torch.get_autocast_dtype(inp.device.type)
            return
        for name, parameter in self.named_parameters():
            if parameter.dtype != inp.dtype:
                raise AssertionError(
                    f"Data types must match outside of autocast: input {inp.dtype}, {name} {parameter.dtype}."
                )
        self.activation_dtype = inp.dtype

    def init_fp8_metadata(self, num_gemms: int = 1) -> None:
        """Nothing is quantized here."""
        if FP8GlobalStateManager.is_fp8_enabled():
            needs_gpu(f"FP8 in {type(self).__name__}")
        self.fp8_meta["fp8_checkpoint"] = False

    def get_extra_state(self) -> torch.Tensor:
        """The FP8 state for a checkpoint: empty."""
        return torch.empty(0, dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        """Load FP8 state.

        Raises:
            NotImplementedError: there is some. It is a pickle, which we do not open.
        """
        if isinstance(state, torch.Tensor) and state.numel():
            needs_gpu(f"Loading FP8 state into {type(self).__name__}")

    def register_wgrad_accumulation_and_reduce_hooks(self, hook: Callable[[], object]) -> None:
        """Call `hook` in `backward_dw`."""
        self.wgrad_accumulation_and_reduce_hooks.append(hook)

    def need_backward_dw(self) -> bool:
        """Whether weight gradients are delayed until `backward_dw`."""
        return self.wgrad_store is not None and self.wgrad_store.delay_wgrad_compute()

    def backward_dw(self) -> None:
        """Run the hooks that wait for delayed weight gradients.

        The gradients themselves came with the ordinary backward: here is no GEMM worth delaying.
        """
        if self.need_backward_dw():
            for hook in self.wgrad_accumulation_and_reduce_hooks:
                hook()


def get_dummy_wgrad(shape: list[int], dtype: torch.dtype, zero: bool = False) -> torch.Tensor:
    """A gradient for autograd's eyes only, where the real one went to `main_grad`."""
    device = torch.cuda.current_device()
    return (torch.zeros if zero else torch.empty)(shape, dtype=dtype, device=device)


__getattr__ = refusing(__name__)
