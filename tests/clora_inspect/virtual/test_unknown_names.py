"""The stand-in's errors name what it does not have, and what it has but cannot compute."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import te_cases
import torch

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron


@pytest.fixture(autouse=True, scope="module")
def _world() -> Iterator[None]:
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        yield


@pytest.mark.parametrize("module", te_cases.stand_in_names())
def test_an_unknown_name_of_any_module_is_named(module: str) -> None:
    with pytest.raises(AttributeError, match=f"{module}.NoSuchThing is not part of the Transformer Engine stand-in"):
        importlib.import_module(module).NoSuchThing  # noqa: B018
    with pytest.raises(ImportError, match="NoSuchThing"):
        exec(f"from {module} import NoSuchThing")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda te: te.LayerNormMLP(8, 8), "LayerNormMLP"),
        (lambda te: te.make_graphed_callables(), "make_graphed_callables"),
        (lambda te: te.fp8_autocast(enabled=True).__enter__(), "autocast"),
        (lambda te: te.fp8_model_init(enabled=True).__enter__(), "fp8_model_init"),
        (lambda te: te.ops.Sequential(), "Sequential"),
        (lambda te: te.ops.BasicLinear(8, 8)(torch.ones(8)), "BasicLinear"),
        (lambda te: te.tensor.QuantizedTensor(), "QuantizedTensor"),
        (lambda te: te.get_cpu_offload_context(enabled=True), "get_cpu_offload_context"),
        (lambda te: te.router.fused_topk_with_score_function(), "fused_topk_with_score_function"),
    ],
)
def test_what_only_a_gpu_computes_is_named(call: Callable[[Any], object], name: str) -> None:
    import transformer_engine.pytorch as te

    with pytest.raises(NotImplementedError, match=rf"{name}.* computes on a GPU only"):
        call(te)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_parameters_without_a_dtype_have_torchs_default(dtype: torch.dtype) -> None:
    import transformer_engine.pytorch as te

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        layers = [te.Linear(8, 4), te.LayerNormLinear(8, 4), te.GroupedLinear(2, 8, 4), te.RMSNorm(8), te.LayerNorm(8)]
    finally:
        torch.set_default_dtype(before)
    for layer in layers:
        assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
        out = layer(torch.ones(3, 8, dtype=dtype), *([[1, 2]] if isinstance(layer, te.GroupedLinear) else []))
        assert out.dtype == dtype


def test_input_of_another_dtype_is_refused_as_on_the_gpu() -> None:
    import transformer_engine.pytorch as te

    with pytest.raises(AssertionError, match="Data types"):
        te.Linear(8, 4)(torch.ones(3, 8, dtype=torch.float64))
