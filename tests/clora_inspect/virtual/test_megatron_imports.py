"""megatron-core's own modules find a stand-in for Triton, and nobody else does."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator

import pytest
import torch

from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import triton, virtual_megatron

KERNELS = "megatron.core.inference.contexts.attention_context.triton.tensor_ops"
"""A module that imports Triton outside of any `try`, which Mamba mixers import."""


@pytest.fixture(autouse=True, scope="module")
def _world() -> Iterator[None]:
    with quiet(), virtual_megatron("cpu"):
        yield


def test_a_module_of_megatron_core_declares_kernels_and_cannot_run_them() -> None:
    module = importlib.import_module(KERNELS)
    assert module.triton is triton
    with pytest.raises(NotImplementedError, match="kernel _tensor_masked_update_kernel_2d computes on a GPU only"):
        module._tensor_masked_update_kernel_2d[(1,)](torch.ones(2, 3))


def test_torch_and_the_user_find_the_triton_that_is_installed_or_none() -> None:
    importlib.import_module(KERNELS)
    assert sys.modules.get("triton") is not triton
    found = {}
    exec("try:\n    import triton\nexcept ImportError:\n    triton = None\n", found)
    assert found["triton"] is not triton
    assert (importlib.util.find_spec("triton") is None) == (found["triton"] is None)
    # torch's compiler looks for more of Triton than megatron-core does.
    assert importlib.import_module("torch._inductor.runtime.triton_compat")


def test_a_kernel_keeps_its_name_under_all_decorators() -> None:
    @triton.autotune(configs=[triton.Config({"BLOCK": 4}, num_warps=2)], key=["n"])
    @triton.heuristics({"EVEN": lambda arguments: arguments["n"] % 2 == 0})
    @triton.jit(do_not_specialize=["n"])
    def add(n: triton.language.constexpr) -> None:
        """Add."""

    assert add.__name__ == "add"
    with pytest.raises(NotImplementedError, match="kernel add computes"):
        add[triton.cdiv(7, 4),](7, BLOCK=triton.next_power_of_2(5))


@pytest.mark.parametrize(("n", "rounded"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_next_power_of_2(n: int, rounded: int) -> None:
    assert triton.next_power_of_2(n) == rounded


@pytest.mark.parametrize(("x", "y", "quotient"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2)])
def test_cdiv(x: int, y: int, quotient: int) -> None:
    assert triton.cdiv(x, y) == quotient


def test_the_convolutions_of_two_packages_agree() -> None:
    from causal_conv1d import causal_conv1d_fn
    from fla.modules.convolution import causal_conv1d

    x_BSC, weight = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64)
    out, state = causal_conv1d(x=x_BSC, weight=weight, bias=bias, activation="silu")
    expected = causal_conv1d_fn(x_BSC.transpose(1, 2), weight, bias, activation="silu").transpose(1, 2)
    assert state is None
    assert torch.equal(out, expected)
    with pytest.raises(NotImplementedError, match="packed sequences"):
        causal_conv1d(x=x_BSC, weight=weight, cu_seqlens=torch.tensor([0, 5]))


def test_the_gpu_is_an_h100_in_every_answer() -> None:
    properties = torch.cuda.get_device_properties(0)
    assert (properties.major, properties.minor) == torch.cuda.get_device_capability(0)
    assert properties.name == torch.cuda.get_device_name()


def test_scaling_in_place_finds_values_that_were_not_finite() -> None:
    from transformer_engine.pytorch.optimizers import multi_tensor_applier, multi_tensor_scale

    gradients, overflow = [torch.tensor([2.0, 4.0])], torch.zeros(1, dtype=torch.int)
    multi_tensor_applier(multi_tensor_scale, overflow, [gradients, gradients], float("inf"))
    assert overflow.item() == 0
    multi_tensor_applier(multi_tensor_scale, overflow, [gradients, gradients], 0.0)
    assert overflow.item() == 1
