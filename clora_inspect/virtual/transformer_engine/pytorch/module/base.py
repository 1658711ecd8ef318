"""Stand-in for `transformer_engine.pytorch.module.base`: the base class of linears and attention.

It registers and initialises parameters, and has the attributes of FP8, which is always off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ...missing import needs_gpu, refuse_unknown_names
from ..quantization import FP8GlobalStateManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import ProcessGroup

    InitMethod = Callable[[torch.Tensor], object]
    RngTracker = Callable[[], Any]

PARALLEL_MODES = ("row", "column", None)
"""How a linear splits its weight over the tp axis; None does not split."""


def normal_init(weight: torch.Tensor) -> torch.Tensor:
    """Initialise a weight as the real classes do if `init_method` is None."""
    return torch.nn.init.normal_(weight, mean=0.0, std=0.023)


def constant_init(value: float) -> InitMethod:
    return lambda weight: torch.nn.init.constant_(weight, value)


def set_tensor_model_parallel_attributes(tensor: torch.Tensor, is_parallel: bool, dim: int, stride: int) -> None:
    """Mark a parameter as a shard, split along `dim`, by the attributes that megatron-core reads.

    megatron-core's function of this name does the same for its own linears.
    """
    parameter: Any = tensor
    parameter.tensor_model_parallel = is_parallel
    parameter.partition_dim = dim
    parameter.partition_stride = stride


class _Initialisation(NamedTuple):
    """How a parameter gets its values: by `init_fn`, drawing from the tracker's random state."""

    init_fn: InitMethod
    get_rng_state_tracker: RngTracker | None


@dataclass
class WeightGradStore:
    """The option `delay_wgrad_compute`: weight gradients come later, through `backward_dw`.

    The real class also stores the tensors that the delayed GEMMs need.
    """

    enabled: bool = False

    def delay_wgrad_compute(self) -> bool:
        return self.enabled


_PLAIN = frozenset((bool, int, float, str, type(None), tuple, list, dict))
"""Types of attributes that torch's modules only keep, unless the name is registered."""
_REGISTERED = ("_parameters", "_buffers", "_modules")


class TransformerEngineBaseModule(torch.nn.Module):
    """Base of the linears and of attention."""

    rng_tracker_name: str | None = None
    """Name of the random state that initialises weights; None is the tracker's default. Linears set
    it, attention does not.
    """

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

    def __setattr__(self, name: str, value: Any) -> None:
        """Set plain values without torch's search for parameters, modules and buffers.

        A linear has some sixty attributes, and a model with single experts has 50,000 linears.
        """
        own = vars(self)
        if type(value) in _PLAIN and "_modules" in own and not any(name in own[kind] for kind in _REGISTERED):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def register_parameter(
        self,
        name: str,
        param: torch.nn.Parameter | None,
        init_fn: InitMethod | None = None,
        get_rng_state_tracker: RngTracker | None = None,
    ) -> None:
        """Register a parameter, and keep how it is initialised for `reset_parameters`."""
        super().register_parameter(name, param)
        # FSDP registers a parameter a second time, without `init_fn`: the first one counts.
        self.param_init_meta.setdefault(name, _Initialisation(init_fn or normal_init, get_rng_state_tracker))

    def reset_parameters(self, defer_init: bool = False) -> None:
        """Set the initial values of the module's own parameters, unless `defer_init` (on meta)."""
        if defer_init:
            return
        for name, parameter in self.named_parameters(recurse=False):
            init_fn, get_rng_state_tracker = self.param_init_meta[name]
            with torch.no_grad():
                if get_rng_state_tracker is None:
                    init_fn(parameter)
                else:
                    names = (self.rng_tracker_name,) if self.rng_tracker_name else ()
                    with get_rng_state_tracker().fork(*names):
                        init_fn(parameter)

    def set_tensor_parallel_group(self, tp_group: ProcessGroup | None) -> None:
        """Set the group over which the weight is split. A forward with tp > 1 needs it."""
        self.tp_group = tp_group
        self.tp_group_initialized = True

    def _set_tp(self, tp_group: ProcessGroup | None, tp_size: int) -> None:
        """Set the size of tensor parallelism from the group.

        `tp_size` counts only if `tp_group` is None: the caller sets the group later.
        """
        self.tp_size = tp_size if tp_group is None else tp_group.size()
        if tp_group is not None or tp_size == 1:
            self.set_tensor_parallel_group(tp_group)

    def set_activation_dtype(self, inp: torch.Tensor) -> None:
        """Set the dtype in which the forward computes: autocast's, or else the input's.

        Raises:
            AssertionError: without autocast, a parameter has another dtype than the input.
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
        """Refuse FP8; without it there is no metadata.

        Raises:
            NotImplementedError: FP8 is on.
        """
        if FP8GlobalStateManager.is_fp8_enabled():
            needs_gpu(f"FP8 in {type(self).__name__}")
        self.fp8_meta["fp8_checkpoint"] = False

    def get_extra_state(self) -> torch.Tensor:
        """Return an empty state. Checkpoints have the entry for each module, also without FP8."""
        return torch.empty(0, dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        """Load FP8 state.

        Raises:
            NotImplementedError: the state is not empty. The real class unpickles it, which can run
                any code, so it is not read here.
        """
        if isinstance(state, torch.Tensor) and state.numel():
            needs_gpu(f"Loading FP8 state into {type(self).__name__}")

    def register_wgrad_accumulation_and_reduce_hooks(self, hook: Callable[[], object]) -> None:
        self.wgrad_accumulation_and_reduce_hooks.append(hook)

    def need_backward_dw(self) -> bool:
        """Return whether weight gradients are delayed until `backward_dw`."""
        return self.wgrad_store is not None and self.wgrad_store.delay_wgrad_compute()

    def backward_dw(self) -> None:
        """Run the hooks that wait for delayed weight gradients.

        The gradients themselves are there since the usual backward. Delaying a GEMM hides
        communication on a GPU and changes no result.

        Raises:
            RuntimeError: the weight is frozen, so that the real class has put no gradient aside.
        """
        if self.need_backward_dw():
            if not any(weight.requires_grad for weight in self.parameters(recurse=False)):
                raise RuntimeError("Pop empty queue: no weight gradient was delayed.")
            for hook in self.wgrad_accumulation_and_reduce_hooks:
                hook()


_dummy_wgrads: dict[tuple[int, ...], torch.Tensor] = {}
"""Shape -> gradients on meta that stand for those in `main_grad`."""


def get_dummy_wgrad(shape: list[int], dtype: torch.dtype, zero: bool = False) -> torch.Tensor:
    """Return a gradient that autograd delivers where the real one was added to `main_grad`. On meta
    there is one for each shape, as in the real function: they stay in memory.
    """
    device = torch.cuda.current_device()
    if torch.device(device).type != "meta":
        return (torch.zeros if zero else torch.empty)(shape, dtype=dtype, device=device)
    key = tuple(shape)
    if key not in _dummy_wgrads or _dummy_wgrads[key].dtype is not dtype:
        _dummy_wgrads[key] = torch.empty(shape, dtype=dtype, device=device)
    return _dummy_wgrads[key].detach()


__getattr__ = refuse_unknown_names(__name__)
