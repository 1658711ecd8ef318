"""With `delay_wgrad_compute`, megatron-core asks every linear for a gradient that a frozen one has
not put aside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lora_models
import pytest
import torch

from clora import CanonicalLoRA, revert
from clora.surgery import merge_and_unload
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Iterator

DELAYED = {"overlap_moe_expert_parallel_comm": True, "delay_wgrad_compute": True, "dtype": torch.bfloat16}


@pytest.fixture(autouse=True, scope="module")
def _virtual_world() -> Iterator[None]:
    with virtual_megatron("cpu"), virtual_cluster(Layout(ep=2)):
        yield


def built(kind: str) -> Any:
    (model,) = lora_models.build(kind, Layout(ep=2), num_layers=1, **DELAYED)
    return model


def adapted(model: Any) -> Any:
    with quiet():
        CanonicalLoRA(target_modules=["linear_proj"], dim=4)(model)
    return model


def delayed_backward(model: Any) -> None:
    """Do what megatron-core does after the backward of a layer."""
    for layer in model.decoder.layers:
        layer.self_attention.backward_dw()
        layer.mlp.backward_dw()


@pytest.mark.parametrize("kind", ["grouped-experts", "shared-experts", "sequential-experts"])
def test_frozen_linears_without_an_adapter_are_not_waited_for(kind: str) -> None:
    model = built(kind)
    model.requires_grad_(False)
    with pytest.raises(RuntimeError, match="Pop empty queue"):
        delayed_backward(model)
    revert(adapted(model.requires_grad_(True)))
    model.requires_grad_(False)
    with pytest.raises(RuntimeError, match="Pop empty queue"):
        delayed_backward(model)
    delayed_backward(adapted(model.requires_grad_(True)))


def test_a_weight_that_trains_again_has_its_gradient_computed() -> None:
    model = adapted(built("shared-experts"))
    calls = []
    linears = [model.decoder.layers[0].self_attention.linear_qkv, model.decoder.layers[0].self_attention.linear_proj]
    for linear in linears:
        linear.register_wgrad_accumulation_and_reduce_hooks(lambda: calls.append(1))
        linear.backward_dw()
    assert calls == []
    linears[0].layer_norm_weight.requires_grad_(True)
    linears[0].backward_dw()
    assert calls == []
    for linear in linears:
        linear.weight.requires_grad_(True)
        linear.backward_dw()
    assert calls == [1, 1]


def test_taking_the_adapters_out_gives_back_the_method() -> None:
    for take_out in (revert, merge_and_unload):
        model = adapted(built("grouped-experts"))
        take_out(model)
        assert not [name for name, module in model.named_modules() if "backward_dw" in vars(module)]


def test_without_the_option_nothing_is_changed() -> None:
    (model,) = lora_models.build("grouped-experts", Layout(ep=2), num_layers=1)
    adapted(model)
    assert not [name for name, module in model.named_modules() if "backward_dw" in vars(module)]
